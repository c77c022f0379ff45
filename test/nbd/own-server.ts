/** Clients over a unix socket whose other ends are the test's own, to be given to whatever it tests. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { WireClient } from './wire.ts';

export class OwnServer implements AsyncDisposable {
  readonly #path: string;
  readonly #server = createServer({ allowHalfOpen: true, pauseOnConnect: true });
  readonly #clients: WireClient[] = [];

  private constructor(path: string) {
    this.#path = path;
  }

  static async listen(path: string): Promise<OwnServer> {
    const own = new OwnServer(path);
    own.#server.listen(path);
    await once(own.#server, 'listening');
    return own;
  }

  /** A client that has said nothing yet, and the server's end of it, paused. */
  async connected(): Promise<{ readonly client: WireClient; readonly socket: Socket }> {
    const accepted = once(this.#server, 'connection');
    const client = WireClient.over(connect({ path: this.#path, allowHalfOpen: true }));
    this.#clients.push(client);
    const [socket]: Socket[] = await accepted;
    assert(socket !== undefined);
    return { client, socket };
  }

  [Symbol.asyncDispose](): Promise<void> {
    for (const client of this.#clients) client.close();
    this.#server.close();
    return Promise.resolve();
  }
}
