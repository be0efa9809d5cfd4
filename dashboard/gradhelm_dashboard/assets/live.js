// The live socket of one run: messages in, reconnects by itself, says how it is doing.
//
// A page that nobody looks at has none: it costs neither the browser nor the server nor the trainer,
// which sends less often when nobody watches. What it missed it fetches when it is looked at again.

import { backOff } from "./coalesce.js";

/** Milliseconds out of sight before the socket is given up: a look at another tab is no absence. */
const REST = 5000;

export class Live {
  #socket = null;
  #attempt = 0;
  #timer = 0;
  #rest = 0;

  /** `on`: {message(object), frame(ArrayBuffer), state("connecting" | "open" | "closed" | "resting", attempt, close code)}. */
  constructor(run, on) {
    this.on = on;
    const scheme = location.protocol === "https:" ? "wss:" : "ws:";
    this.url = `${scheme}//${location.host}/api/v1/runs/${encodeURIComponent(run)}/live`;
    this.comeBack = () => this.#socket || document.hidden || this.#open();
    this.seen = () => {
      clearTimeout(this.#rest);
      if (document.hidden) this.#rest = setTimeout(() => this.#leave(), REST);
      else this.comeBack();
    };
    addEventListener("online", this.comeBack);
    document.addEventListener("visibilitychange", this.seen);
    this.#open();
    this.seen();
  }

  #leave() {
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    socket?.close();
    this.on.state("resting", this.#attempt);
  }

  #open() {
    clearTimeout(this.#timer);
    this.on.state("connecting", this.#attempt);
    const socket = new WebSocket(this.url);
    socket.binaryType = "arraybuffer";
    this.#socket = socket;
    const mine = () => this.#socket === socket;
    socket.onopen = () => mine() && this.on.state("open", this.#attempt);
    socket.onmessage = ({ data }) => {
      if (!mine()) return;
      this.#attempt = 0;
      if (typeof data === "string") this.on.message(JSON.parse(data));
      else this.on.frame(data);
    };
    socket.onclose = ({ code }) => {
      if (!mine()) return;
      this.#socket = null;
      const wait = backOff(this.#attempt++);
      this.on.state("closed", this.#attempt, code);
      this.#timer = setTimeout(this.comeBack, wait);
    };
  }
}
