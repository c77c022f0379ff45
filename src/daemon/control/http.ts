/**
 * Requests and answers of the control socket, below its resources: reading bodies, writing JSON, refusing.
 *
 * Invariants
 *  - Every answer but a stream is whole when it begins, and ends its connection; an error has `code` and `message`.
 *  - A body is at most MAX_BODY_BYTES, and JSON.
 */
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { ControlError } from '../client/messages.ts';

const MAX_BODY_BYTES = 4 * 1024 * 1024;

/** Why a request is not carried out. */
export class Refusal extends Error {
  override readonly name = 'Refusal';
  readonly status: number;
  readonly code: string;

  constructor(status: number, code: string, message: string, options?: ErrorOptions) {
    super(message, options);
    this.status = status;
    this.code = code;
  }
}

/** The JSON of a request's body. Throws a Refusal. */
export async function readJson(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length;
    if (bytes > MAX_BODY_BYTES) {
      throw new Refusal(413, 'TOO_LARGE', `a request may have ${MAX_BODY_BYTES} bytes, this one has more`);
    }
    chunks.push(chunk);
  }
  try {
    return JSON.parse(Buffer.concat(chunks).toString()) as unknown;
  } catch (error) {
    throw new Refusal(400, 'BAD_BODY', `the body is no JSON: ${(error as Error).message}`, { cause: error });
  }
}

export function sendJson(response: ServerResponse, status: number, body: unknown): void {
  sendText(response, status, 'application/json', `${JSON.stringify(body, null, 2)}\n`);
}

export function sendText(response: ServerResponse, status: number, type: string, text: string): void {
  response.writeHead(status, {
    'Content-Type': type,
    'Content-Length': Buffer.byteLength(text),
    Connection: 'close',
  });
  response.end(text);
}

export function sendNothing(response: ServerResponse): void {
  response.writeHead(204, { Connection: 'close' });
  response.end();
}

export function sendRefusal(response: ServerResponse, { status, code, message }: Refusal): void {
  sendJson(response, status, { code, message } satisfies ControlError);
}
