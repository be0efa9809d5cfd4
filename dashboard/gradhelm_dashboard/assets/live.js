// The live socket of one run: messages in, reconnects by itself, says how it is doing.

import { backOff } from "./coalesce.js";

export class Live {
  #socket = null;
  #attempt = 0;
  #timer = 0;
  #closed = false;

  /** `on`: {message(object), frame(ArrayBuffer), state(word, attempt)}. */
  constructor(run, on) {
    this.on = on;
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    this.url = `${scheme}//${location.host}/api/v1/runs/${encodeURIComponent(run)}/live`;
    this.comeBack = () => {
      if (document.visibilityState === "visible" && this.#timer) this.#open();
    };
    addEventListener("online", this.comeBack);
    document.addEventListener("visibilitychange", this.comeBack);
    this.#open();
  }

  close() {
    this.#closed = true;
    clearTimeout(this.#timer);
    removeEventListener("online", this.comeBack);
    document.removeEventListener("visibilitychange", this.comeBack);
    this.#socket?.close();
  }

  #open() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.on.state("connecting", this.#attempt);
    const socket = new WebSocket(this.url);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    socket.onopen = () => this.on.state("open", this.#attempt);
    socket.onmessage = ({ data }) => {
      this.#attempt = 0;
      if (typeof data === "string") this.on.message(JSON.parse(data));
      else this.on.frame(data);
    };
    socket.onclose = () => {
      if (this.#closed || this.#socket !== socket) return;
      const wait = backOff(this.#attempt++);
      this.on.state("closed", this.#attempt);
      this.#timer = setTimeout(() => this.#open(), wait);
    };
  }
}
