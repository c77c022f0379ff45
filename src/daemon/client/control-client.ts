/**
 * A client of the control socket: one request each, with a JSON answer, or with a stream of events, a JSON value per line.
 *
 * Invariants
 *  - Nobody listening is told apart (UNREACHABLE) from a daemon that answers with an error (REFUSED), and from one that went away
 *    before its answer was whole (LOST).
 *  - Nothing waits for ever: a daemon has ANSWER_MS to begin its answer. A stream may be silent for as long as its command is.
 */
import { type ClientRequest, type IncomingMessage, request as httpRequest } from 'node:http';
import { StringDecoder } from 'node:string_decoder';
import { codeOf, reasonOf } from '../errors.ts';
import type { ControlError } from './messages.ts';

const ANSWER_MS = 30_000;

export class ControlClientError extends Error {
  override readonly name = 'ControlClientError';
  readonly code: 'UNREACHABLE' | 'REFUSED' | 'LOST';
  /** Of an answer: the HTTP status and the error's own code. */
  readonly status: number;
  readonly reason: string;

  constructor(
    code: ControlClientError['code'],
    message: string,
    options: ErrorOptions & { readonly status?: number; readonly reason?: string } = {},
  ) {
    super(message, options);
    this.code = code;
    this.status = options.status ?? 0;
    this.reason = options.reason ?? '';
  }

  /** There may be a daemon, but the caller may not talk to it. */
  get denied(): boolean {
    return this.code === 'UNREACHABLE' && codeOf(this.cause) === 'EACCES';
  }
}

export interface EventStream<Event> {
  /** Every event in order; throws ControlClientError LOST when the daemon goes away. */
  readonly events: AsyncIterable<Event>;
  /** Ends the connection: the daemon takes it as the caller's leaving. */
  close(): void;
}

export class ControlClient {
  readonly #path: string;
  readonly #signal: AbortSignal | undefined;

  /** `signal` aborted: whatever is waited for fails, and streams end. */
  constructor(socketPath: string, signal?: AbortSignal) {
    this.#path = socketPath;
    this.#signal = signal;
  }

  /** The JSON of an answer; undefined if it has no body. Throws ControlClientError. */
  async request(method: string, resource: string, body?: unknown): Promise<unknown> {
    const answer = await this.#send(method, resource, body);
    return json(await textOf(answer));
  }

  /** The text of an answer, as `GET /metrics` gives it. Throws ControlClientError. */
  async text(resource: string): Promise<string> {
    return textOf(await this.#send('GET', resource, undefined));
  }

  /** Begins a stream. Throws ControlClientError if it is refused. */
  async stream<Event>(method: string, resource: string, body: unknown): Promise<EventStream<Event>> {
    const answer = await this.#send(method, resource, body);
    return { events: eventsOf<Event>(answer), close: () => void answer.destroy() };
  }

  async #send(method: string, resource: string, body: unknown): Promise<IncomingMessage> {
    const text = body === undefined ? null : JSON.stringify(body);
    const answer = await this.#answered(
      httpRequest({
        socketPath: this.#path,
        method,
        path: resource,
        agent: false,
        signal: this.#signal,
        headers: {
          Host: 'localhost',
          ...(text === null ? {} : { 'Content-Type': 'application/json', 'Content-Length': Buffer.byteLength(text) }),
        },
      }),
      text,
    );
    const status = answer.statusCode ?? 0;
    if (status >= 200 && status < 300) return answer;
    const error = json(await textOf(answer)) as Partial<ControlError> | undefined;
    const message = error?.message ?? `orion-lvmd answered with status ${status}`;
    throw new ControlClientError('REFUSED', message, { status, reason: error?.code ?? '' });
  }

  #answered(request: ClientRequest, text: string | null): Promise<IncomingMessage> {
    const { promise, resolve, reject } = Promise.withResolvers<IncomingMessage>();
    let connected = false;
    request.once('socket', (socket) => socket.once('connect', () => (connected = true)));
    request.setTimeout(ANSWER_MS, () => {
      reject(new ControlClientError('LOST', `orion-lvmd at ${this.#path} does not answer`));
      request.destroy();
    });
    request.once('response', (answer) => {
      request.setTimeout(0);
      resolve(answer);
    });
    request.on('error', (error) => {
      const code = connected ? 'LOST' : 'UNREACHABLE';
      const what = connected ? 'went away' : 'cannot be reached';
      reject(
        new ControlClientError(code, `orion-lvmd at ${this.#path} ${what}: ${reasonOf(error)}`, {
          cause: error,
        }),
      );
    });
    request.end(text ?? undefined);
    return promise;
  }
}

function json(text: string): unknown {
  if (text === '') return undefined;
  try {
    return JSON.parse(text) as unknown;
  } catch (error) {
    throw new ControlClientError('LOST', 'orion-lvmd answered with something that is no JSON', { cause: error });
  }
}

async function textOf(answer: IncomingMessage): Promise<string> {
  let text = '';
  for await (const piece of pieces(answer)) text += piece;
  return text;
}

async function* eventsOf<Event>(answer: IncomingMessage): AsyncGenerator<Event> {
  let rest = '';
  for await (const piece of pieces(answer)) {
    const lines = (rest + piece).split('\n');
    rest = lines.pop() ?? '';
    for (const line of lines) yield json(line) as Event;
  }
  if (rest !== '') throw new ControlClientError('LOST', 'orion-lvmd went away in the middle of a line');
}

async function* pieces(answer: IncomingMessage): AsyncGenerator<string> {
  const decoder = new StringDecoder('utf8');
  try {
    for await (const chunk of answer) yield decoder.write(chunk as Buffer);
  } catch (error) {
    throw new ControlClientError('LOST', `orion-lvmd went away: ${(error as Error).message}`, { cause: error });
  }
}
