// The one request that the login page makes.

/** POSTs `body` to /login: {ok, status, message, wait}; status 0 is no answer, `wait` is in seconds. */
export async function post(body) {
  let answer;
  try {
    answer = await fetch("/login", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      credentials: "same-origin",
    });
  } catch {
    return { ok: false, status: 0, message: "The server could not be reached.", wait: 0 };
  }
  const told = answer.ok ? null : await answer.json().catch(() => null);
  return {
    ok: answer.ok,
    status: answer.status,
    message: told?.error?.message ?? null,
    wait: Number(answer.headers.get("Retry-After")) || 0,
  };
}
