// Exchanges the code in the address's fragment for a session. The POST is made by this script
// and not by the link itself, so that a program that merely fetches links cannot use the code up.

const show = (id) => {
  for (const part of ["entering", "refused", "explain"]) {
    document.getElementById(part).hidden = part !== id;
  }
};

function refuse(why, again) {
  document.getElementById("why").textContent = why;
  document.getElementById("again").hidden = !again;
  show("refused");
}

async function enter() {
  const code = decodeURIComponent(location.hash.slice(1));
  if (!code) return show("explain");
  show("entering");
  try {
    const answer = await fetch("/login", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ code }),
      credentials: "same-origin",
    });
    if (answer.ok) return location.replace("/");
    const body = await answer.json().catch(() => null);
    refuse(body?.error?.message ?? `The server refused the link (${answer.status}).`, false);
  } catch {
    refuse("The server could not be reached.", true);
  }
}

document.getElementById("again").addEventListener("click", enter);
addEventListener("hashchange", enter);
enter();
