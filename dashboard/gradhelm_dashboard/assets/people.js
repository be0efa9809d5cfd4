// The people of this server: who may do what, who comes in how, and those who may not any more.

import { changeUser, getUsers, makeLink, removeUser } from "./api.js";
import { confirmed } from "./confirmed.js";
import { $, icon, make, say } from "./dom.js";
import * as numbers from "./numbers.js";
import { PersonDialog } from "./person.js";
import { grantsInWords } from "./rights.js";
import { RowMenu } from "./rowmenu.js";
import { makeTable } from "./rows.js";
import { showOnce } from "./secret.js";
import { toast } from "./toast.js";
import { failed, moment, nothing } from "./told.js";

/** How it stands with somebody: {word, tone, symbol}. Pure. */
export function standing(user) {
  if (user.disabled_at) return { word: "Disabled", tone: "", symbol: "lock" };
  if (user.password || user.oidc || user.last_login_at) return { word: "Active", tone: "live", symbol: "circle-check" };
  return { word: "Invited", tone: "stale", symbol: "clock" };
}

/** How somebody signs in, in words. Pure. */
export function ways({ password, oidc }) {
  if (password && oidc) return "password or single sign-on";
  return password ? "password" : oidc ? "single sign-on" : "one-time links";
}

/** How long a link is good, in words: "ten minutes". Pure. */
export const lasting = (seconds) => (seconds === 600 ? "ten minutes" : numbers.span(seconds * 1000));

export class People {
  /** `me`: the user, as GET server tells. */
  constructor(me) {
    this.me = me;
    this.place = $("people-place");
    this.menu = new RowMenu();
    this.dialog = new PersonDialog({
      added: async (user) => {
        await this.load();
        if (user.password) toast(`${user.name} can sign in now.`);
        else await this.#link(user, "Invitation for");
      },
      changed: async (user) => {
        toast(`The roles of ${user.name} are changed.`);
        await this.load();
        this.table.focus(user.id);
      },
    });
    this.table = makeTable({ id: "people-table", label: "People", columns: [
      { title: "Name" }, { title: "Roles" }, { title: "Signs in by", class: "widest-only" }, { title: "Last sign-in", class: "wide-only" }, { title: "State", class: "wide-only" }, { title: "", class: "acts" },
    ] });
    $("people-new").addEventListener("click", () => this.dialog.open());
  }

  async load() {
    try {
      this.render(await getUsers());
    } catch (error) {
      failed(this.place, error, () => this.load());
    }
  }

  render(users) {
    const now = Date.now();
    if (!users.length) {
      this.place.replaceChildren(nothing("Nobody has an account yet. One-time links by ", make("code", {}, "gradhelm link"), " let the local administrator in all the same."));
      return;
    }
    if (!this.table.element.isConnected) this.place.replaceChildren(this.table.element);
    this.table.fill(users.map((user) => this.#row(user, now)));
  }

  #row(user, now) {
    const { word, tone, symbol } = standing(user);
    const chip = () => make("span", { class: `chip ${tone}` }, icon(symbol), word);
    const myself = this.me.account && this.me.name === user.name;
    return {
      key: user.id,
      class: user.disabled_at ? "ended" : "",
      cells: [
        [make("bdi", { class: "name", title: user.name }, user.name), myself ? make("span", { class: "tag" }, "You") : null, make("span", { class: "narrow-only" }, chip())].filter(Boolean),
        [make("bdi", {}, grantsInWords(user.grants))],
        [ways(user)],
        [moment(user.last_login_at, (then) => numbers.ago(then, now))],
        [chip()],
        [make("button", {
          type: "button", class: "button small row-menu", "aria-haspopup": "menu", "aria-label": `What can be done with ${user.name}`,
          onclick: ({ currentTarget }) => this.#open(user, currentTarget),
        }, icon("ellipsis"))],
      ],
    };
  }

  #open(user, at) {
    this.menu.open(at, [
      { symbol: "pencil", text: "Change the roles…", act: () => this.dialog.open(user) },
      ...(user.disabled_at ? [] : [{ symbol: "link", text: "New sign-in link", act: () => this.#link(user, "Sign-in link for") }]),
      user.disabled_at
        ? { symbol: "rotate-ccw", text: "Enable", act: () => this.#enable(user) }
        : { symbol: "lock", text: "Disable…", act: () => this.#disable(user) },
      { symbol: "trash-2", text: "Remove…", tone: "bad-text", act: () => this.#remove(user) },
    ], () => at.focus());
  }

  /** Acts, and says above the table what went wrong. Returns what came of it, null if nothing did. */
  async #act(act) {
    say("people-told", "");
    try {
      return await act();
    } catch (error) {
      say("people-told", error.message ?? String(error));
      return null;
    }
  }

  async #link(user, title) {
    const made = await this.#act(() => makeLink(user.id));
    if (!made) return;
    showOnce($("people-once"), {
      title: `${title} ${user.name}`,
      warning: `Whoever opens it comes in as ${user.name}, and can set a password. It works once, for ${lasting(made.expires_in)}, and is not shown again.`,
      boxes: [{ label: "The link", text: `${location.origin}/login#${made.code}` }],
      done: () => this.table.focus(user.id),
    });
  }

  async #enable(user) {
    if (!(await this.#act(() => changeUser(user.id, { disabled: false })))) return;
    toast(`${user.name} can come in again.`);
    await this.load();
    this.table.focus(user.id);
  }

  async #disable(user) {
    const yes = await confirmed(`Disable ${user.name}?`, [
      "They are signed out everywhere within five seconds and cannot come in again until they are enabled.",
      "Their API tokens stop as well; training jobs that report with one train on, but nothing new of them arrives here.",
    ], "Disable", true);
    if (!yes || !(await this.#act(() => changeUser(user.id, { disabled: true })))) return this.table.focus(user.id);
    toast(`${user.name} is disabled.`);
    await this.load();
    this.table.focus(user.id);
  }

  async #remove(user) {
    const yes = await confirmed(`Remove ${user.name}?`, [
      "They are signed out everywhere, and their API tokens are revoked; training jobs that report with one train on, but nothing new of them arrives here.",
      "What they did stays in the history under their name. This cannot be taken back; to keep somebody out for a while, disable them.",
    ], "Remove", true);
    if (!yes || !(await this.#act(() => removeUser(user.id).then(() => true)))) return this.table.focus(user.id);
    toast(`${user.name} is removed.`);
    await this.load();
    $("people-new").focus();
  }
}
