// What somebody may do, and where: a grant is a role in one project, or in all of them. Pure.

/** The project of a grant that is for all projects. */
export const ALL = "*";

/** The roles, weaker ones first, with what each may do: as the server's gate has it, and in words. */
const ROLES = {
  viewer: { actions: ["view"], words: "may look at runs" },
  operator: { actions: ["view", "control"], words: "may look at runs, and change, rename and delete them" },
  admin: { actions: ["view", "control", "admin", "ingest", "metrics"], words: "may do everything, with people and tokens too" },
  ingest: { actions: ["ingest"], words: "may report runs, and nothing else" },
  metrics: { actions: ["metrics"], words: "may read how the server itself is doing, and nothing else" },
};
/** Those that people have; the others are for programs. */
export const PEOPLES = ["viewer", "operator", "admin"];
/** Those that are for all projects, or not at all. */
export const WHOLE = ["admin", "metrics"];
/** Which tokens somebody may make who is no admin, by his role in a project. */
const MAKES = { viewer: ["viewer"], operator: ["viewer", "operator", "ingest"] };

export const words = (role) => ROLES[role]?.words ?? "";

/** Whether the user (as GET server tells of him; null: not known) may do `action` in the project. */
export function mayIn(user, action, project) {
  const { grants } = user ?? { grants: {} };
  return [ALL, project].some((where) => Object.hasOwn(grants, where) && ROLES[grants[where]]?.actions.includes(action));
}

/** Whether the user may change, delete and steer the runs of a project. */
export const maySteer = (user, project) => mayIn(user, "control", project);

/** Why the runs of a project are closed to the user, in words; null when he may steer them, or is not known. */
export function whyNot(user, project) {
  if (!user || maySteer(user, project)) return null;
  const elsewhere = Object.keys(user.grants).filter((where) => maySteer(user, where)).sort();
  if (!elsewhere.length) return `You are signed in as ${user.name} with the role ${user.role}, which may look. To change anything takes the role operator.`;
  return `You are signed in as ${user.name}, who may change runs ${where(elsewhere)}. This one is ${where([project])}, where you may look.`;
}

/** Grants by role, the strongest first: [{role, projects}], projects in order, all of them first. */
export function byRole(grants) {
  const found = new Map(Object.keys(ROLES).map((role) => [role, []]));
  for (const [project, role] of Object.entries(grants)) found.get(role)?.push(project);
  return [...found].filter(([, projects]) => projects.length).reverse()
    .map(([role, projects]) => ({ role, projects: projects.sort((a, b) => Number(b === ALL) - Number(a === ALL) || a.localeCompare(b)) }));
}

/** Where a grant holds: "in all projects", "in the projects a and b". */
export function where(projects) {
  if (projects.includes(ALL)) return "in all projects";
  return projects.length === 1 ? `in the project ${projects[0]}` : `in the projects ${listed(projects)}`;
}

/** All of them in a line: "operator in the project a, viewer in all projects". */
export const grantsInWords = (grants) => byRole(grants).map(({ role, projects }) => `${role} ${where(projects)}`).join(", ");

/** Which tokens the user may make: {role: the projects, or null for any}. */
export function makeable({ kind, grants, may }) {
  if (may.includes("admin")) return { viewer: null, operator: null, ingest: null, admin: [ALL], metrics: [ALL] };
  const found = {};
  if (kind === "token") return found; // a token makes no tokens, but an admin's
  for (const [project, role] of Object.entries(grants)) for (const made of MAKES[role] ?? []) (found[made] ??= []).push(project);
  for (const [role, projects] of Object.entries(found)) found[role] = projects.includes(ALL) ? null : projects.sort();
  return Object.fromEntries(Object.keys(ROLES).filter((role) => role in found).map((role) => [role, found[role]]));
}

/** "a", "a and b", "a, b and c". */
const listed = (names) => (names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`);
