// Brings somebody in: by the code in the address's fragment, by a name and a password, or by going
// to the sign-in service. The code is exchanged by this script's POST and not by the link itself, so
// that a program that merely fetches links cannot use it up.

import { readHash, readNext } from "./address.js";
import { PasswordForm } from "./form.js";
import { post } from "./post.js";

const $ = (id) => document.getElementById(id);
const show = (id, visible) => ($(id).hidden = !visible);

function refuse(why, { again = false, link = false } = {}) {
  $("why").textContent = why;
  show("once-more", link);
  show("again", again);
  show("refused", true);
}

/** Where one wanted to go, else where one has to go first. */
async function goOn({ byLink }) {
  const { anchor } = readHash(location.hash);
  let next = readNext(location.search, anchor);
  if (byLink && !next) {
    const answer = await fetch("/api/v1/server", { credentials: "same-origin" }).catch(() => null);
    const { user } = answer?.ok ? await answer.json() : {};
    // Invited, or it was forgotten: without one the next visit would take another link.
    if (user?.account && !user.password) next = "/settings#password";
  }
  location.replace(next || "/");
}

const form = new PasswordForm(() => goOn({ byLink: false }));

/** The ways in, besides a link. */
async function offer(alsoLink) {
  let ways;
  try {
    const answer = await fetch("/login/ways", { credentials: "same-origin" });
    if (!answer.ok) throw new Error();
    ways = await answer.json();
  } catch {
    refuse("The server could not be reached.", { again: true });
    return;
  }
  show("by-oidc", ways.oidc !== null);
  if (ways.oidc) {
    $("by-oidc").textContent = `Sign in with ${ways.oidc.name}`;
    const next = readNext(location.search, readHash(location.hash).anchor);
    $("by-oidc").href = "/login/oidc" + (next && `?next=${encodeURIComponent(next)}`);
  }
  const only = !ways.password && ways.oidc === null;
  const explain = $("explain");
  explain.hidden = only && !alsoLink; // said already why the link did not work, and where to get another
  explain.open = only;
  explain.querySelector("summary").hidden = only;
  show("ways", true);
  form.show(ways.password);
}

async function enter() {
  const { code, error } = readHash(location.hash);
  for (const id of ["refused", "ways"]) show(id, false);
  if (!code) {
    if (error) {
      refuse(`Signing in did not work: ${error}`);
      // It was said; a reload, or a bookmark, begins anew.
      history.replaceState(null, "", location.pathname + location.search);
    }
    await offer(true);
    return;
  }
  show("entering", true);
  const { ok, message, status } = await post({ code });
  if (ok) {
    await goOn({ byLink: true });
    return;
  }
  show("entering", false);
  const why = status === 401 ? "This link was used before, or is too old." : message ?? `The server refused the link (${status}).`;
  refuse(why, { again: status === 0, link: status === 401 });
  if (status !== 0) await offer(false);
}

$("again").addEventListener("click", enter);
addEventListener("hashchange", enter);
enter();
