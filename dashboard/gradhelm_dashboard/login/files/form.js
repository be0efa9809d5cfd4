// Name and password, and how long to wait after too many wrong ones.

import { waiting } from "./address.js";
import { post } from "./post.js";

const $ = (id) => document.getElementById(id);

export class PasswordForm {
  #busy = false;
  #until = 0;

  /** `entered()` is called once there is a session. */
  constructor(entered) {
    this.entered = entered;
    $("by-password").addEventListener("submit", (event) => this.#submit(event));
  }

  show(visible) {
    $("by-password").hidden = !visible;
    if (visible) $("name").focus();
  }

  #tell(text, at = null) {
    $("wrong").textContent = text;
    for (const id of ["name", "password"]) $(id).toggleAttribute("aria-invalid", id === at);
    if (at) $(at).focus();
  }

  async #submit(event) {
    event.preventDefault();
    if (this.#busy || Date.now() < this.#until) return;
    const [name, password] = [$("name").value.trim(), $("password").value];
    if (!name) return this.#tell("Type your name.", "name");
    if (!password) return this.#tell("Type your password.", "password");
    this.#busy = true;
    this.#tell("");
    const { ok, status, message, wait } = await post({ name, password });
    this.#busy = false;
    if (ok) return this.entered();
    if (status === 429) return this.#wait(wait);
    $("password").select();
    return this.#tell(status === 401 ? "Name or password is wrong." : message ?? `The server refused it (${status}).`, status === 401 ? "password" : null);
  }

  /** Said once to readers, counted down on the button for everybody. */
  #wait(seconds) {
    this.#until = Date.now() + seconds * 1000;
    this.#tell(`There were too many wrong tries. You can try again in ${waiting(seconds)}.`);
    const button = $("enter");
    const tick = () => {
      const left = Math.ceil((this.#until - Date.now()) / 1000);
      button.setAttribute("aria-disabled", String(left > 0));
      button.textContent = left > 0 ? `Wait ${waiting(left)}` : "Sign in";
      if (left > 0) setTimeout(tick, 1000);
      else this.#tell("");
    };
    tick();
  }
}
