// The settings: who one is, the API tokens, the people, and how the page looks.

import { getServer } from "./api.js";
import { Account } from "./account.js";
import { startAppearance } from "./appearance.js";
import { $, connection, show } from "./dom.js";
import { People } from "./people.js";
import { knowProjects } from "./places.js";
import { failed } from "./told.js";
import { Tokens } from "./tokens.js";

export function startSettings() {
  document.title = "Settings · gradhelm";
  startAppearance($("appearance-place"));
  return new Settings();
}

class Settings {
  /** Whether somebody has begun to do something here, and must not be taken elsewhere. */
  begun = false;

  constructor() {
    addEventListener("hashchange", () => this.go());
    for (const kind of ["pointerdown", "keydown", "wheel"]) addEventListener(kind, () => (this.begun = true), { once: true, capture: true, passive: true });
    this.go();
    this.load();
  }

  async load() {
    connection("connecting", "Connecting…");
    show("settings-told", false);
    try {
      ({ user: this.user } = await getServer());
    } catch (error) {
      connection("closed", "Disconnected");
      show("settings-told", true);
      for (const id of ["you", "tokens"]) show(id, false);
      failed($("settings-told"), error, () => this.load());
      return;
    }
    connection("live", "Connected");
    await this.render();
    window.gradhelm.drawn += 1;
    if (!this.begun) this.go();
  }

  async render() {
    const { user } = this;
    const admin = user.may.includes("admin");
    for (const id of ["you", "tokens"]) show(id, true);
    for (const id of ["people", "nav-people"]) show(id, admin);
    this.parts = [new Account(user), new Tokens(user), ...(admin ? [new People(user)] : [])];
    knowProjects(Object.keys(user.grants));
    await Promise.all(this.parts.map((part) => part.load()));
  }

  /** To the part that the address names, which was not there when the browser looked for it. */
  go() {
    const part = /^#[a-z-]+$/.test(location.hash) ? $(location.hash.slice(1)) : null;
    if (!part || part.hidden || !$("settings-page").contains(part)) return;
    part.scrollIntoView({ block: "start" });
    if (part.id === "password") $("password-new").focus({ preventScroll: true });
  }
}
