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
  if (answer.status === 401) location.assign("/login");
  const body = await answer.json().catch(() => null);
  const error = body?.error ?? {};
  throw new ApiError(
    answer.status, error.message ?? `The server answered ${answer.status}.`, error.details ?? {}, error.code,
  );
}

const json = async (path, options) => (await ask(path, options)).json();
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

export async function getSeries(id, columns, values) {
  const path = `${run(id)}/series${query({ columns: columns.join(","), ...values })}`;
  return readSeries(await (await ask(path, binary)).arrayBuffer());
}

export async function getHeatmap(id, values) {
  const answer = await ask(`${run(id)}/heatmap${query(values)}`, binary);
  return readHeatmap(await answer.arrayBuffer(), answer.headers);
}

/** Replaces one rule, that of `match` (null: for all parameters) and `stream`, if the document is still at `version`. */
export function putControl(id, version, { match, stream }, values, reason) {
  return json(`${run(id)}/control`, {
    method: "PUT",
    headers: { "Content-Type": "application/json", "If-Match": `"${version}"` },
    body: JSON.stringify({ ...values, match, stream, reason }),
  });
}

export async function signOut() {
  await fetch("/logout", { method: "POST", credentials: "same-origin" }).catch(() => null);
  location.assign("/login");
}
