/**
 * What carries a connection's bytes, by Node's streams and by plain calls: the same suite for both, over unix sockets and TCP.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer, type ListenOptions, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { clientStreams } from '../../src/daemon/streams.ts';
import { type ByteStream, openNodeStream, type StreamOpener, type StreamUser } from '../../src/nbd/byte-stream.ts';

const OPENERS: readonly (readonly [string, StreamOpener])[] = [
  ["Node's streams", openNodeStream],
  ['plain calls', clientStreams()],
];

/** Keeps what it was told, and lets a test wait for it. */
class User implements StreamUser {
  readonly chunks: Buffer[] = [];
  bytes = 0;
  hasEnded = false;
  hasClosed = false;
  failure: string | null = null;
  stream: ByteStream | null = null;
  readonly #spaceBytes: number;
  #space: Buffer = Buffer.alloc(0);
  #inside = false;
  #waiters: { readonly done: () => boolean; readonly resolve: () => void }[] = [];

  constructor(spaceBytes = 1000) {
    this.#spaceBytes = spaceBytes;
  }

  space(): Buffer {
    this.#space = Buffer.alloc(this.#spaceBytes);
    return this.#space;
  }

  received(bytes: number): void {
    assert(!this.hasEnded && !this.hasClosed);
    this.chunks.push(this.#space.subarray(0, bytes));
    this.bytes += bytes;
    this.#wake();
  }

  ended(): void {
    assert(!this.hasEnded);
    this.hasEnded = true;
    this.#wake();
  }

  failed(reason: string): void {
    this.failure = reason;
  }

  closed(): void {
    assert(!this.hasClosed && !this.#inside);
    this.hasClosed = true;
    this.#wake();
  }

  /** Calls the stream, and sees that it does not close meanwhile. */
  call(work: (stream: ByteStream) => void): void {
    assert(this.stream !== null);
    this.#inside = true;
    work(this.stream);
    this.#inside = false;
  }

  until(done: () => boolean): Promise<void> {
    if (done()) return Promise.resolve();
    return new Promise((resolve) => void this.#waiters.push({ done, resolve }));
  }

  sent(): void {
    this.sends++;
    this.#wake();
  }
  sends = 0;

  #wake(): void {
    const waiters = this.#waiters;
    this.#waiters = waiters.filter(({ done }) => !done());
    for (const waiter of waiters) if (!this.#waiters.includes(waiter)) waiter.resolve();
  }
}

interface Pair {
  readonly user: User;
  readonly client: Socket;
}

/** A stream and the client at its other end. */
async function withPair(
  open: StreamOpener,
  kind: 'unix' | 'tcp',
  user: User,
  work: (pair: Pair) => Promise<void>,
): Promise<void> {
  const directory = await mkdtemp(join(tmpdir(), 'orion-stream-'));
  const address: ListenOptions = kind === 'unix' ? { path: join(directory, 's') } : { host: '127.0.0.1', port: 0 };
  const server = createServer({ allowHalfOpen: true, pauseOnConnect: true });
  server.listen(address);
  await once(server, 'listening');
  const bound = server.address();
  assert(bound !== null);
  const client = connect({
    allowHalfOpen: true,
    ...(typeof bound === 'string' ? { path: bound } : { port: bound.port }),
  });
  client.on('error', () => undefined); // what is written when the other side has closed
  const [socket]: Socket[] = await once(server, 'connection');
  assert(socket !== undefined);
  user.stream = open(socket, user);
  try {
    await work({ user, client });
  } finally {
    client.destroy();
    user.stream.destroy();
    await user.until(() => user.hasClosed);
    await new Promise((resolve) => server.close(resolve));
    await rm(directory, { recursive: true });
  }
}

function pattern(bytes: number, seed: number): Buffer {
  const buffer = Buffer.alloc(bytes);
  for (let i = 0; i < bytes; i++) buffer[i] = (i * 31 + (i >>> 8) * 7 + seed) & 0xff;
  return buffer;
}

async function take(client: Socket, bytes: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let count = 0;
  while (count < bytes) {
    const chunk: unknown = client.read();
    if (Buffer.isBuffer(chunk)) {
      chunks.push(chunk);
      count += chunk.length;
    } else {
      await once(client, 'readable');
    }
  }
  return Buffer.concat(chunks);
}

for (const [name, open] of OPENERS) {
  for (const kind of ['unix', 'tcp'] as const) {
    describe(`${name}, ${kind}`, () => {
      test('what is sent arrives in order, and is told of once it has been taken', async () => {
        await withPair(open, kind, new User(), async ({ user, client }) => {
          const sizes = [1, 16, 4112, 300_000, 7, 16_000_000, 5, 40_000];
          const pieces = sizes.map((bytes, i) => pattern(bytes, i));
          user.call((stream) => stream.send(pieces.slice(0, 1), null));
          for (let i = 1; i < pieces.length; i += 2)
            user.call((s) => s.send(pieces.slice(i, i + 2), () => user.sent()));
          assert(user.sends < 4, 'nobody reads, so not all can have left');
          const got = await take(
            client,
            sizes.reduce((a, b) => a + b),
          );
          assert(got.equals(Buffer.concat(pieces)));
          await user.until(() => user.sends === 4);
        });
      });

      test('what arrives is read into the memory that was given, and a pause stops it', async () => {
        await withPair(open, kind, new User(), async ({ user, client }) => {
          const all = pattern(100_000, 3);
          client.write(all.subarray(0, 50_000));
          assert.equal(user.bytes, 0);
          user.call((stream) => stream.resume());
          await user.until(() => user.bytes === 50_000);
          user.call((stream) => stream.pause());
          client.write(all.subarray(50_000));
          // The stream looks at its socket in the meantime: what it says is answered, and nothing is told.
          user.call((stream) => stream.send([Buffer.from('x')], () => user.sent()));
          await take(client, 1);
          assert.equal(user.bytes, 50_000);
          user.call((stream) => stream.resume());
          user.call((stream) => stream.pause());
          user.call((stream) => stream.resume());
          await user.until(() => user.bytes === 100_000);
          assert(Buffer.concat(user.chunks).equals(all));
        });
      });

      test('the client ends first, and gets what follows', async () => {
        await withPair(open, kind, new User(), async ({ user, client }) => {
          client.end('last');
          user.call((stream) => stream.resume());
          await user.until(() => user.hasEnded);
          assert.equal(Buffer.concat(user.chunks).toString(), 'last');
          const much = pattern(1_000_000, 1);
          user.call((stream) => stream.send([much], () => user.sent()));
          user.call((stream) => stream.end());
          assert((await take(client, much.length)).equals(much));
          client.read();
          await user.until(() => user.hasClosed);
          assert.equal(user.failure, null);
        });
      });

      test('we end first, and hear the client to its end', async () => {
        await withPair(open, kind, new User(), async ({ user, client }) => {
          user.call((stream) => stream.resume());
          user.call((stream) => stream.send([Buffer.from('bye')], null));
          user.call((stream) => stream.end());
          const ended = once(client, 'end');
          client.resume();
          await ended;
          client.end('good bye');
          await user.until(() => user.hasClosed);
          assert.equal(Buffer.concat(user.chunks).toString(), 'good bye');
          assert(user.hasEnded && user.failure === null);
        });
      });

      test('a client that is gone ends it, in the middle of what it was to take', async () => {
        await withPair(open, kind, new User(), async ({ user, client }) => {
          user.call((stream) => stream.resume());
          user.call((stream) => stream.send([pattern(16_000_000, 1)], () => user.sent()));
          await take(client, 1000);
          if (kind === 'tcp') client.resetAndDestroy();
          else client.destroy();
          await user.until(() => user.hasClosed);
          assert.equal(user.sends, 0);
          assert(user.failure !== null);
        });
      });

      test('destroyed, it says no more', async () => {
        await withPair(open, kind, new User(), async ({ user, client }) => {
          client.write('never read');
          user.call((stream) => stream.send([pattern(16_000_000, 1)], () => user.sent()));
          user.call((stream) => stream.destroy());
          user.call((stream) => stream.destroy());
          await user.until(() => user.hasClosed);
          assert.equal(user.bytes + user.sends, 0);
        });
      });

      test('released, its socket goes on where it was', async () => {
        await withPair(open, kind, new User(4), async ({ user, client }) => {
          client.write('1234');
          user.call((stream) => stream.resume());
          await user.until(() => user.bytes === 4);
          user.call((stream) => stream.pause());
          client.write('5678');
          const long = pattern(16_000_000, 1);
          user.call((stream) => stream.send([long.subarray(0, 1000), long.subarray(1000)], () => user.sent()));
          let got: Buffer = Buffer.alloc(0);
          if (open === openNodeStream) {
            user.call((stream) => assert.equal(stream.movable, false, 'not all is sent'));
            user.call((stream) => assert.equal(stream.release(), null));
            got = await take(client, long.length);
            await user.until(() => user.sends === 1);
          }
          const released = user.stream?.release() ?? null;
          assert(released !== null);
          const { socket, unsent } = released;
          assert.equal(user.stream?.movable, open === openNodeStream);
          assert.equal(unsent.length > 0, open !== openNodeStream);
          if (unsent.length > 0) got = await take(client, long.length - unsent.length);
          assert(Buffer.concat([got, unsent]).equals(long));
          assert(unsent.buffer !== long.buffer, 'it is a copy');
          const next = new User();
          const taken = openNodeStream(socket, next);
          next.stream = taken;
          next.call((stream) => stream.resume());
          await next.until(() => next.bytes === 4);
          assert.equal(Buffer.concat(next.chunks).toString(), '5678');
          next.call((stream) => stream.send([Buffer.from('yes')], null));
          assert.equal((await take(client, 3)).toString(), 'yes');
          assert(user.sends <= 1, 'nobody is told of what has not been sent');
          next.call((stream) => stream.destroy());
          await next.until(() => next.hasClosed);
        });
      });
    });
  }
}

test('a stream that is destroyed by who hears that bytes have left sends no more', async () => {
  await withPair(clientStreams(), 'unix', new User(), async ({ user, client }) => {
    const long = pattern(4_000_000, 1);
    user.call((stream) => {
      stream.send([long], () => stream.destroy());
      stream.send([pattern(1000, 2)], () => user.sent());
    });
    const got = await take(client, long.length);
    assert(got.equals(long));
    await user.until(() => user.hasClosed);
    assert.equal(user.sends, 0);
    assert.equal(user.failure, null);
  });
});

test('many streams at once, closed while others are ready', async () => {
  const users = Array.from({ length: 40 }, () => new User());
  const open = clientStreams();
  const all = users.map((user, index) =>
    withPair(open, 'unix', user, async ({ client }) => {
      user.call((stream) => stream.resume());
      client.write(pattern(100 + index, index));
      await user.until(() => user.bytes === 100 + index);
      assert(Buffer.concat(user.chunks).equals(pattern(100 + index, index)));
    }),
  );
  await Promise.all(all);
});
