// Who one is here, and what that allows.

import { $, make, say, show } from "./dom.js";
import { Password } from "./password.js";
import { byRole, where, words } from "./rights.js";
import { Sessions } from "./sessions.js";

/** Who somebody is, in a sentence. Pure. */
export function who({ name, kind, account }) {
  if (kind === "token") return `You came in by the API token ${name}.`;
  return account ? `You are signed in as ${name}.` : "You are the local administrator of this server, signed in by a one-time link.";
}

export class Account {
  /** `user`: as GET server tells. */
  constructor(user) {
    this.user = user;
    say("you-who", who(user));
    $("you-rights").replaceChildren(...byRole(user.grants).map(({ role, projects }) => make("li", {},
      make("b", {}, `${role[0].toUpperCase()}${role.slice(1)}`), " ", make("bdi", {}, where(projects)), make("span", { class: "muted" }, `: ${words(role)}`))));
    show("you-local", !user.account && user.kind === "session");
    show("password", user.account);
    show("sessions", user.kind === "session");
    if (user.account) this.password = new Password($("password"), user, () => this.sessions.load());
    if (user.kind === "session") this.sessions = new Sessions($("sessions-place"));
  }

  async load() {
    await this.sessions?.load();
  }
}
