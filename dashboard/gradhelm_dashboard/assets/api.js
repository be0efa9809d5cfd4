// The server's REST interface, called with the browser's own cookie.

import { readHeatmap, readSeries } from "./bytes.js";

const BASE = "/api/v1";

/** An answer that is not a success; `status` 0 means that there was no answer. */
export class ApiError extends Error {
  constructor(status, message, details = {}, code = "") {
    super(message);
    Object.assign(this, { status, details, code });
  }
}

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(BASE + path, { credentials: "same-origin", cache: "no-cache", ...options });
  } catch {
    throw new ApiError(0, "The server could not be reached.");
  }
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => null);
  const error = body?.error ?? {};
  // A wrong password is no reason to go.
  if (answer.status === 401 && error.code === "unauthorized") comeBack();
  throw new ApiError(
    answer.status, error.message ?? `The server answered ${answer.status}.`, error.details ?? {}, error.code,
  );
}

let leaving = false;

/** To the login page, and from there back to where one was. Once: to ask again would begin to leave anew. */
function comeBack() {
  if (leaving) return;
  leaving = true;
  const { pathname, search, hash } = location;
  location.assign(`/login?next=${encodeURIComponent(pathname + search + hash)}`);
}

const json = async (path, options) => (await ask(path, options)).json();
const sent = (method, body) => ({ method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
const binary = { headers: { Accept: "application/octet-stream" } };
const run = (id) => `/runs/${encodeURIComponent(id)}`;

function query(values) {
  const pairs = Object.entries(values).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return pairs.length ? `?${new URLSearchParams(pairs)}` : "";
}

export const getServer = () => json("/server");
export const getRuns = (values) => json(`/runs${query(values)}`);
export const getRun = (id) => json(run(id));
export const getParameters = async (id, values = {}) => (await json(`${run(id)}/parameters${query(values)}`)).parameters;
export const getEvents = async (id, values = { limit: 200 }) => (await json(`${run(id)}/events${query(values)}`)).events;
export const getControl = (id) => json(`${run(id)}/control`);
export const getHistory = async (id) => (await json(`${run(id)}/control/history`)).versions;
export const getAdvice = (id, values) => json(`${run(id)}/advice${query(values)}`);
export const getWhatIf = (id, values) => json(`${run(id)}/whatif${query(values)}`);

export async function getSeries(id, columns, values) {
  const path = `${run(id)}/series${query({ columns: columns.join(","), ...values })}`;
  return readSeries(await (await ask(path, binary)).arrayBuffer());
}

export async function getHeatmap(id, values) {
  const answer = await ask(`${run(id)}/heatmap${query(values)}`, binary);
  return readHeatmap(await answer.arrayBuffer(), answer.headers);
}

/** Where the whole run is to be had as a file. */
export const exportOf = (id, values) => `${BASE}${run(id)}/export${query(values)}`;

export const getTimes = (id, values) => json(`${run(id)}/times${query(values)}`);
export const getColumns = async (id) => (await json(`${run(id)}/columns`)).columns;
export const changeRun = (id, values) => json(run(id), sent("PATCH", values));
export const deleteRun = (id) => ask(run(id), { method: "DELETE" });
export const restoreRun = (id) => json(`${run(id)}/restore`, { method: "POST" });

/** Asks for a change of the desired document, if it is still at `version`; see docs/api.md for what `body` may say. */
export function putControl(id, version, body) {
  const { headers, ...rest } = sent("PUT", body);
  return json(`${run(id)}/control`, { ...rest, headers: { ...headers, "If-Match": `"${version}"` } });
}

// -- people, tokens, sessions: see docs/api.md#access --------------------------------------------

const one = (list, id) => `/${list}/${encodeURIComponent(id)}`;

export const getTokens = async () => (await json("/tokens")).tokens;
/** `values`: {role, project, name, expires_in}; answers {token, id}, the token this once. */
export const makeToken = (values) => json("/tokens", sent("POST", values));
export const revokeToken = (id) => ask(one("tokens", id), { method: "DELETE" });
export const getUsers = async () => (await json("/users")).users;
export const addUser = (values) => json("/users", sent("POST", values));
export const changeUser = (id, values) => json(one("users", id), sent("PATCH", values));
export const removeUser = (id) => ask(one("users", id), { method: "DELETE" });
/** A link by which that user comes in, once: {code, expires_in}. */
export const makeLink = (user) => json("/login-links", sent("POST", { user }));
export const setPassword = (values) => ask("/me/password", sent("POST", values));
export const getSessions = async () => (await json("/me/sessions")).sessions;
export const endSession = (id) => ask(one("me/sessions", id), { method: "DELETE" });

export async function signOut() {
  await fetch("/logout", { method: "POST", credentials: "same-origin" }).catch(() => null);
  location.assign("/login");
}
