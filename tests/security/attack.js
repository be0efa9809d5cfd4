// What a page of somebody else can try on a server, in the browser of a person who is signed in to
// it. What came of each is in `outcome`: "READ …", "LOADED …", "OPENED …" is bad, "blocked …" is good,
// "sent" is for the server to refuse.

const asked = new URLSearchParams(location.search);
const target = asked.get("target");
const run = asked.get("run");
const sockets = target.replace("http", "ws");
const outcome = {};
const LIMIT = 4_000;

function attempt(name, act) {
  const limit = new Promise((_, no) => setTimeout(() => no({ name: "timeout" }), LIMIT));
  return Promise.race([Promise.resolve().then(act), limit])
    .catch((error) => `blocked: ${error?.name}`)
    .then((result) => { outcome[name] = result; });
}

async function read(path, init = {}) {
  const answer = await fetch(target + path, { credentials: "include", ...init });
  if (answer.type.startsWith("opaque")) return "sent";
  return `READ ${answer.status} ${(await answer.text()).slice(0, 80)}`;
}

const element = (tag, attributes) => new Promise((yes, no) => {
  const made = document.createElement(tag);
  made.onload = made.onloadeddata = () => yes(`LOADED ${tag}`);
  made.onerror = () => no({ name: "error" });
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  document.body.append(made);
});

const socket = (path, protocols) => new Promise((yes, no) => {
  const made = new WebSocket(sockets + path, protocols);
  made.onopen = () => yes(`OPENED ${path}`);
  made.onmessage = () => yes(`READ ${path}`);
  made.onerror = () => no({ name: "error" });
});

function form(path, fields, enctype) {
  const frame = document.createElement("iframe");
  frame.name = `to ${path}`;
  const made = document.createElement("form");
  Object.assign(made, { method: "POST", action: target + path, target: frame.name, enctype });
  for (const [name, value] of Object.entries(fields)) {
    const field = document.createElement("input");
    Object.assign(field, { type: "hidden", name, value });
    made.append(field);
  }
  document.body.append(frame, made);
  return new Promise((yes) => {
    frame.onload = () => {
      let text = null;
      try { text = frame.contentDocument?.body?.innerText ?? null; } catch { /* as it should be */ }
      yes(text ? `READ ${text}` : "sent");
    };
    made.submit();
  });
}

const READS = [
  "/", "/login", "/livez", "/api/v1/server", "/api/v1/runs", `/api/v1/runs/${run}`,
  `/api/v1/runs/${run}/control`, "/api/v1/tokens", "/api/v1/openapi.json", "/_dash-layout", "/assets/main.js",
];
const WRITES = [
  ["POST", "/logout", ""],
  ["POST", "/login", '{"code":"x"}'],
  ["POST", "/api/v1/tokens", '{"role":"admin","name":"mine"}'],
  ["POST", "/api/v1/login-links", "{}"],
  ["POST", "/api/v1/prune", '{"keep_steps":1}'],
  ["POST", `/api/v1/runs/${run}/restore`, ""],
  ["POST", "/_dash-update-component", '{"output":"page.children"}'],
  ["PUT", `/api/v1/runs/${run}/control`, '{"max_norm":0.5}'],
  ["PATCH", `/api/v1/runs/${run}`, '{"name":"mine"}'],
  ["DELETE", `/api/v1/runs/${run}`, null],
];

async function attack() {
  const tries = [];
  const add = (name, act) => tries.push(attempt(name, act));
  for (const path of READS) {
    for (const mode of ["cors", "no-cors"]) add(`${mode} GET ${path}`, () => read(path, { mode }));
    add(`xhr ${path}`, () => new Promise((yes, no) => {
      const made = new XMLHttpRequest();
      made.open("GET", target + path);
      made.withCredentials = true;
      made.onload = () => yes(`READ ${made.status}`);
      made.onerror = () => no({ name: "error" });
      made.send();
    }));
  }
  for (const [method, path, body] of WRITES) {
    for (const type of ["text/plain", "application/json", "application/x-www-form-urlencoded"]) {
      const init = { method, body, headers: { "Content-Type": type } };
      add(`cors ${method} ${path} ${type}`, () => read(path, init));
      add(`no-cors ${method} ${path} ${type}`, () => read(path, { ...init, mode: "no-cors" }));
    }
    add(`with more headers ${method} ${path}`, () => read(path, {
      method, body, headers: { "If-Match": "*", "X-HTTP-Method-Override": method, Authorization: "Bearer gh_x" },
    }));
    if (method === "POST") {
      add(`beacon ${path}`, () => (navigator.sendBeacon(target + path, body ?? "") ? "sent" : "blocked: beacon"));
      add(`form ${path}`, () => form(path, { '{"role":"admin","x":"': '"}' }, "text/plain"));
      add(`form of fields ${path}`, () => form(path, { role: "admin", _method: "PUT" }, "application/x-www-form-urlencoded"));
    }
  }
  for (const path of [`/api/v1/runs/${run}/live`, "/api/v1/ingest", "/_dash-ws-callback"]) {
    add(`socket ${path}`, () => socket(path));
    add(`socket ${path} of a trainer`, () => socket(path, ["gradhelm.v1"]));
  }
  add("events", () => new Promise((yes, no) => {
    const made = new EventSource(`${target}/api/v1/runs`, { withCredentials: true });
    made.onopen = made.onmessage = () => yes("READ events");
    made.onerror = () => no({ name: "error" });
  }));
  for (const path of ["/api/v1/runs", "/api/v1/server", "/assets/main.js", "/assets/cells.js", "/_dash-layout"]) {
    add(`script ${path}`, () => element("script", { src: target + path }));
    add(`module ${path}`, () => element("script", { src: target + path, type: "module" }));
    add(`import ${path}`, async () => `LOADED ${Object.keys(await import(target + path))}`);
  }
  for (const path of ["/assets/page.css", "/login-assets/login.css", "/api/v1/runs"]) {
    add(`style ${path}`, () => element("link", { rel: "stylesheet", href: target + path }));
  }
  for (const path of ["/assets/logo.svg", "/favicon.ico", "/api/v1/runs"]) {
    add(`image ${path}`, () => element("img", { src: target + path }));
    add(`video ${path}`, () => element("video", { src: target + path, autoplay: "" }));
  }
  for (const rel of ["prefetch", "preload", "modulepreload"]) {
    add(rel, () => element("link", { rel, as: rel === "preload" ? "fetch" : "script", href: `${target}/api/v1/runs` }));
  }
  add("worker", async () => {
    const made = new Worker(`${target}/assets/main.js`);
    return new Promise((yes, no) => { made.onmessage = () => yes("LOADED worker"); made.onerror = no; });
  });
  add("service worker", async () => `LOADED ${await navigator.serviceWorker.register(`${target}/assets/main.js`, { scope: `${target}/` })}`);
  add("cookies", () => {
    // Cookies know no port: another site of this very machine can set some, but not overwrite ours.
    const port = new URL(target).port;
    document.cookie = `gradhelm-${port}=planted; path=/`;
    document.cookie = `gradhelm-${port}=planted; path=/api`;
    document.cookie = "__Host-gradhelm=planted; path=/";
    return document.cookie.includes(`gradhelm-${port}=p`) ? "sent" : "blocked: cookie";
  });
  for (const path of ["/", "/login", `/runs/${run}`, "/api/v1/runs"]) {
    add(`frame ${path}`, async () => {
      const frame = document.createElement("iframe");
      frame.src = target + path;
      document.body.append(frame);
      await new Promise((yes) => { frame.onload = yes; });
      try {
        return `READ ${frame.contentWindow.document.body.innerText}`;
      } catch {
        return "sent";
      }
    });
  }
  await Promise.all(tries);
  return outcome;
}

let popup = null;
const knock = () => { popup = window.open(`${target}/runs/${run}`); };

/** What the page knows of the window that it opened. */
function peep() {
  const found = { closed: popup === null || popup.closed };
  for (const [name, look] of Object.entries({ location: () => popup.location.href, frames: () => popup.length, document: () => popup.document.title })) {
    try { found[name] = look(); } catch (error) { found[name] = `blocked: ${error.name}`; }
  }
  popup?.postMessage({ type: "gradhelm", props: { "page.children": "mine" } }, "*");
  try { popup.location = "javascript:document.title='mine'"; } catch { /* as it should be */ }
  return found;
}

window.done = attack().then((found) => {
  if (parent !== window) parent.postMessage(found, "*");
  return found;
});
