// The API tokens: which there are, what becomes of those that use one that is revoked, and new ones.

import { getTokens, revokeToken } from "./api.js";
import { confirmed } from "./confirmed.js";
import { $, icon, make, say, show } from "./dom.js";
import { NewToken } from "./newtoken.js";
import * as numbers from "./numbers.js";
import { ALL, makeable } from "./rights.js";
import { makeTable } from "./rows.js";
import { showOnce } from "./secret.js";
import { toast } from "./toast.js";
import { failed, moment, nothing } from "./told.js";

/** Of those that are worth nothing any more, so many are shown at first. */
const SOME = 5;
const SOON = 7 * 86_400_000;

/** How it stands with a token at `now`, in milliseconds: {word, tone, ended}. Pure. */
export function standing(token, now) {
  if (token.revoked_at) return { word: "Revoked", tone: "", ended: true };
  const left = token.expires_at ? Date.parse(token.expires_at) - now : Infinity;
  if (left <= 0) return { word: "Expired", tone: "", ended: true };
  return left < SOON ? { word: "Expires soon", tone: "stale", ended: false } : { word: "Active", tone: "live", ended: false };
}

/** Those that let somebody in first, newest first; then the others, those that ended last first. Pure. */
export function ordered(tokens, now) {
  const ended = (token) => (standing(token, now).ended ? Date.parse(token.revoked_at ?? token.expires_at) : Infinity);
  return [...tokens].sort((a, b) => (ended(a) === ended(b) ? Date.parse(b.created_at) - Date.parse(a.created_at) : ended(b) - ended(a)));
}

const STOPS = {
  ingest: "Training jobs that report with it train on, and clip as before, but nothing new of them arrives here.",
  viewer: "Programs that look at runs with it are shut out.",
  operator: "Programs that look at runs or steer them with it are shut out. What they have set stays in force.",
  admin: "Programs that come in with it are shut out. If it is the one in the server's data directory, the gradhelm command on that machine is, too.",
  metrics: "Whatever watches the server with it gets no numbers any more.",
};

/** What revoking a token leads to, in sentences. Pure. */
export function whatStops(token, now) {
  const used = token.last_used_at ? `It was last used ${numbers.ago(Date.parse(token.last_used_at), now)}.` : "It has never been used.";
  return [STOPS[token.role], `${used} What is open with it ends within five seconds. This cannot be taken back.`];
}

export class Tokens {
  #all = false;

  /** `user`: as GET server tells. */
  constructor(user) {
    this.user = user;
    this.place = $("tokens-place");
    this.table = makeTable({ id: "token-table", label: "API tokens", columns: [
      { title: "Name" }, { title: "Role", class: "wide-only" }, { title: "Project", class: "wide-only" }, { title: "Owner", class: "widest-only" },
      { title: "Created", class: "widest-only" }, { title: "Last used", class: "wide-only" }, { title: "Expires", class: "wide-only" },
      { title: "State" }, { title: "", class: "acts" },
    ] });
    this.more = make("button", { type: "button", class: "button small", id: "tokens-more", onclick: () => this.#more() });
    const roles = makeable(user);
    const may = Object.keys(roles).length > 0;
    show("token-new", may);
    show("tokens-closed", !may);
    if (may) this.dialog = new NewToken(roles, { made: (token) => this.#made(token) });
    $("token-new").addEventListener("click", () => this.dialog.open());
  }

  async load() {
    try {
      this.tokens = await getTokens();
    } catch (error) {
      failed(this.place, error, () => this.load());
      return;
    }
    this.render();
  }

  render() {
    const now = Date.now();
    const all = ordered(this.tokens, now);
    if (!all.length) {
      this.place.replaceChildren(nothing("No token yet. A training job on another machine needs one with the role ingest; a program that reads or steers needs viewer or operator."));
      return;
    }
    if (!this.table.element.isConnected) this.place.replaceChildren(this.table.element, this.more);
    const ended = all.filter((token) => standing(token, now).ended).length;
    const shown = this.#all ? all : all.slice(0, all.length - Math.max(0, ended - SOME));
    this.table.fill(shown.map((token) => this.#row(token, now)));
    show(this.more, shown.length < all.length);
    say(this.more, `Show ${numbers.count(all.length - shown.length)} more that no longer work`);
  }

  #row(token, now) {
    const { word, tone, ended } = standing(token, now);
    const project = token.project === ALL ? "all projects" : token.project;
    const owner = token.owner ?? "local";
    return {
      key: token.id,
      class: ended ? "ended" : "",
      cells: [
        [make("bdi", { class: "name", title: token.name }, token.name), make("span", { class: "narrow-only faint small" }, `${token.role}, ${project}`)],
        [token.role],
        [make("bdi", { class: token.project === ALL ? "faint" : "", title: project }, project)],
        [make("bdi", { class: token.owner ? "" : "faint" }, owner)],
        [moment(token.created_at, (then) => numbers.ago(then, now))],
        [moment(token.last_used_at, (then) => numbers.ago(then, now))],
        [moment(token.expires_at, (then) => (then > now ? numbers.until(then, now) : numbers.ago(then, now)))],
        [make("span", { class: `chip ${tone}` }, icon(ended ? "circle-x" : tone === "stale" ? "clock" : "circle-check"), word)],
        ended ? [] : [make("button", { type: "button", class: "button small", "aria-label": `Revoke the token ${token.name}`, onclick: () => this.#revoke(token) }, "Revoke")],
      ],
    };
  }

  #more() {
    const first = this.table.element.tBodies[0].rows.length;
    this.#all = true;
    this.render();
    const row = this.table.element.tBodies[0].rows[first];
    row.tabIndex = -1;
    row.focus();
  }

  async #revoke(token) {
    if (!(await confirmed(`Revoke “${token.name}”?`, whatStops(token, Date.now()), "Revoke the token", true))) return;
    try {
      await revokeToken(token.id);
      toast(`“${token.name}” is revoked.`);
    } catch (error) {
      toast(`“${token.name}” could not be revoked: ${error.message ?? error}`);
    }
    await this.load();
    $("token-new").focus();
  }

  #made({ token, name, role }) {
    showOnce($("token-once"), {
      title: `The new token “${name || `${role} token`}”`,
      warning: "Copy it now: it is kept nowhere in readable form, and not shown again.",
      boxes: [
        { label: "The token", text: token },
        { label: "How it is used, where the job or program runs", text: `export GRADHELM_TOKEN=${token}\nexport GRADHELM_SERVER=${location.origin}` },
      ],
      done: () => $("token-new").focus(),
    });
    this.load();
  }
}
