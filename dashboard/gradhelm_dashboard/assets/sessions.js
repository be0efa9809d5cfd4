// The browsers that one is signed in with, each of which can be signed out from here.

import { endSession, getSessions, signOut } from "./api.js";
import { browser } from "./agent.js";
import { icon, make } from "./dom.js";
import * as numbers from "./numbers.js";
import { makeTable } from "./rows.js";
import { toast } from "./toast.js";
import { failed, moment } from "./told.js";

export class Sessions {
  constructor(place) {
    this.place = place;
    this.table = makeTable({ id: "session-table", label: "Open sessions", columns: [
      { title: "Browser" }, { title: "Started", class: "wide-only" }, { title: "Last used" }, { title: "Ends", class: "wide-only" }, { title: "", class: "acts" },
    ] });
  }

  async load() {
    try {
      this.render(await getSessions());
    } catch (error) {
      failed(this.place, error, () => this.load());
    }
  }

  render(sessions) {
    const now = Date.now();
    const order = [...sessions].sort((a, b) => Number(b.current) - Number(a.current) || Date.parse(b.last_used_at ?? b.created_at) - Date.parse(a.last_used_at ?? a.created_at));
    if (!this.table.element.isConnected) this.place.replaceChildren(this.table.element);
    this.table.fill(order.map((session) => {
      const name = browser(session.agent);
      return {
        key: session.id,
        cells: [
          [make("span", { title: session.agent ?? "" }, name), session.current ? make("span", { class: "chip live" }, icon("check"), "This one") : null].filter(Boolean),
          [moment(session.created_at, (then) => numbers.ago(then, now))],
          [moment(session.last_used_at, (then) => numbers.ago(then, now), "not yet")],
          [moment(session.expires_at, (then) => numbers.until(then, now))],
          [make("button", {
            type: "button", class: "button small", "aria-label": session.current ? "End this session: sign out" : `End the session of ${name}`,
            onclick: () => (session.current ? signOut() : this.#end(session, name)),
          }, session.current ? "Sign out" : "End")],
        ],
      };
    }));
  }

  async #end({ id }, name) {
    try {
      await endSession(id);
      toast(`The session of ${name} is ended.`);
    } catch (error) {
      toast(`The session could not be ended: ${error.message ?? error}`);
    }
    await this.load();
  }
}
