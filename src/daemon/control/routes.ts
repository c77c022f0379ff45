/**
 * The resources of the control socket: which there are, whom they are for, and what they do. docs/openapi.json describes the
 * same to others; a test holds the two together.
 *
 * Invariants
 *  - Nothing is done before the peer's role is known to reach what the resource needs.
 *  - Answers are added to within /v1, never changed.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import { type Permission, type Role, hasRole } from '../access.ts';
import type { Hold } from '../held-exports.ts';
import { readJson, Refusal, sendJson, sendNothing, sendText } from './http.ts';
import { openApiText } from './openapi.ts';
import type { Peer } from './peer.ts';
import type { CommandResource } from './commands.ts';

/** What the daemon gives to its control socket. */
export interface ControlledDaemon {
  status(): unknown;
  /** The numbers of x-orion:segment in an export, "VG/LV", and what they stand for; null: it is not served. */
  segments(exportName: string): unknown;
  /** Keeps others away from an export to which the caller has connected; gives what that is, and what ends it. Throws a Refusal. */
  hold(exportName: string, who: string): Hold;
  /** Reads the devices again. */
  rescan(): Promise<void>;
  /** Counters of volumes, devices, workers and clients: observe/stats.ts's Numbers. */
  numbers(): unknown;
  /** Prometheus text. */
  metrics(): string | Promise<string>;
  readonly commands: CommandResource;
}

/** A request on its way. */
export interface Call {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  readonly peer: Peer;
  readonly role: Role | null;
  /** By the names in the route's path. */
  readonly params: Readonly<Record<string, string>>;
}

export interface Route {
  readonly method: 'GET' | 'POST' | 'DELETE';
  /** As in OpenAPI: "/v1/commands/{id}". */
  readonly path: string;
  /** Null: the handler decides. */
  readonly needs: Role | null;
  readonly handle: (call: Call, daemon: ControlledDaemon) => void | Promise<void>;
}

export const ROUTES: readonly Route[] = [
  {
    method: 'GET',
    path: '/v1/status',
    needs: 'observer',
    handle: ({ response }, daemon) => sendJson(response, 200, daemon.status()),
  },
  {
    method: 'GET',
    path: '/v1/openapi.json',
    needs: null,
    handle: async ({ response }) => sendText(response, 200, 'application/json', await openApiText()),
  },
  {
    method: 'GET',
    path: '/v1/numbers',
    needs: 'observer',
    handle: async ({ response }, daemon) => sendJson(response, 200, await daemon.numbers()),
  },
  {
    method: 'GET',
    path: '/v1/segments/{vg}/{lv}',
    needs: 'observer',
    handle({ response, params }, daemon) {
      const name = `${params['vg'] ?? ''}/${params['lv'] ?? ''}`;
      const segments = daemon.segments(name);
      if (segments === null) throw new Refusal(404, 'NO_SUCH_RESOURCE', `${name} is not served`);
      sendJson(response, 200, segments);
    },
  },
  {
    method: 'POST',
    path: '/v1/holds/{vg}/{lv}',
    needs: 'operator',
    handle({ request, response, params, peer }, daemon) {
      const name = `${params['vg'] ?? ''}/${params['lv'] ?? ''}`;
      const { id, release } = daemon.hold(name, `user ${peer.uid}, process ${peer.pid}`);
      response.once('close', release);
      // It says nothing more, and is as long as the hold.
      request.socket.setTimeout(0);
      request.resume();
      response.writeHead(200, { 'Content-Type': 'application/x-ndjson', Connection: 'close' });
      response.write(`${JSON.stringify({ held: name, id })}\n`);
    },
  },
  {
    method: 'GET',
    path: '/metrics',
    needs: 'observer',
    handle: async ({ response }, daemon) =>
      sendText(response, 200, 'text/plain; version=0.0.4; charset=utf-8', await daemon.metrics()),
  },
  {
    method: 'POST',
    path: '/v1/rescan',
    needs: 'operator',
    async handle({ request, response }, daemon) {
      // A device that hangs is waited for longer than a silent client.
      request.socket.setTimeout(0);
      request.resume();
      await daemon.rescan();
      sendNothing(response);
    },
  },
  {
    method: 'GET',
    path: '/v1/commands',
    needs: 'observer',
    handle: ({ response }, daemon) => sendJson(response, 200, daemon.commands.list()),
  },
  {
    method: 'POST',
    path: '/v1/commands',
    needs: null,
    handle: async (call, daemon) => daemon.commands.run(call, await readJson(call.request)),
  },
  {
    method: 'DELETE',
    path: '/v1/commands/{id}',
    needs: null,
    handle(call, daemon) {
      daemon.commands.cancel(call, call.params['id'] ?? '');
      sendNothing(call.response);
    },
  },
  {
    method: 'POST',
    path: '/v1/commands/{id}/answers',
    needs: null,
    async handle(call, daemon) {
      daemon.commands.answer(call, call.params['id'] ?? '', await readJson(call.request));
      sendNothing(call.response);
    },
  },
];

/** The route of a request. Throws a Refusal if there is none. */
export function routeOf(
  method: string,
  path: string,
): { readonly route: Route; readonly params: Readonly<Record<string, string>> } {
  const there: Route[] = [];
  for (const route of ROUTES) {
    const params = match(route.path, path);
    if (params === null) continue;
    if (route.method === method || (route.method === 'GET' && method === 'HEAD')) return { route, params };
    there.push(route);
  }
  if (there.length === 0) throw new Refusal(404, 'NO_SUCH_RESOURCE', `there is no ${path}; see /v1/openapi.json`);
  const methods = there.map((route) => route.method).join(', ');
  throw new Refusal(405, 'BAD_METHOD', `${method} is not possible on ${path}; use ${methods}`);
}

function match(template: string, path: string): Readonly<Record<string, string>> | null {
  const wanted = template.split('/');
  const given = path.split('/');
  if (wanted.length !== given.length) return null;
  const params: Record<string, string> = {};
  for (const [at, part] of wanted.entries()) {
    const name = /^\{(\w+)\}$/.exec(part)?.[1];
    const text = name === undefined ? (given[at] ?? '') : decoded(given[at] ?? '');
    if (name === undefined ? part !== text : text === '') return null;
    if (name !== undefined) params[name] = text;
  }
  return params;
}

/** A "+" of a name may come as "%2B"; what can't be decoded is no name. */
function decoded(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return '';
  }
}

/** Whether a peer may use a route. */
export function permission({ path, needs }: Route, role: Role | null): Permission {
  if (needs === null || hasRole(role, needs)) return { allowed: true };
  const own = role === null ? 'your user has no role here' : `yours is ${role}`;
  return { allowed: false, reason: `${path} needs the role ${needs}, ${own}` };
}
