// Waits for Dash to put a page into the document, and brings it to life.

import { getServer, signOut } from "./api.js";
import { startCompare } from "./compare.js";
import { $, connection, say } from "./dom.js";
import { openRun, startRun } from "./run.js";
import { startRuns } from "./runs.js";
import { startSettings } from "./settings.js";

window.gradhelm = { frames: 0, points: 0, drawn: 0, connected: false, lastStep: null };

// Before there is a page: Dash takes longer to put it together than the server to answer.
const address = /^\/runs\/([^/]+)\/?$/.exec(location.pathname);
const opening = address ? openRun(decodeURIComponent(address[1])) : undefined;
opening?.catch(() => null); // told by startRun, which waits for it too

async function account() {
  try {
    const { user } = await getServer();
    if (!user) return;
    const initials = user.name.slice(0, 2).toUpperCase();
    say("user-initials", initials);
    $("user-initials").setAttribute("aria-label", `${initials}, the account ${user.name}`);
    say("user-name", `${user.name} · ${user.role}`);
  } catch {
    // The pages themselves say when the server cannot be reached.
  }
}

function started() {
  if ($("run-page")) {
    startRun($("run-page").dataset.run, opening);
  } else if ($("runs-page")) {
    startRuns();
  } else if ($("compare-page")) {
    startCompare();
  } else if ($("settings-page")) {
    startSettings();
  } else if ($("missing-page")) {
    document.title = "Nothing here · gradhelm";
    connection("idle", "Connected");
  } else {
    return false;
  }
  $("sign-out")?.addEventListener("click", signOut);
  account();
  return true;
}

if (!started()) {
  const watch = new MutationObserver(() => {
    if (started()) watch.disconnect();
  });
  watch.observe(document, { childList: true, subtree: true });
}
