/**
 * The list of sockets that are ready (native/stream.c): more of them in one turn than it has entries, closed and opened while it is looked
 * at, so that numbers come up again; and a socket that can't be given back to Node.
 */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { closeSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { after, before, describe, test } from 'node:test';
import { streamBinding } from '../../src/native/addon.ts';
import type { ByteStream, StreamUser } from '../../src/nbd/byte-stream.ts';
import { directStreams, type StreamCalls } from '../../src/nbd/direct-stream.ts';

/** The list's entries in native/stream.c. */
const ENTRIES = 1023;
/** open(2)'s flag for a descriptor that can do nothing but be closed. */
const O_PATH = 0o10000000;

/** How long each list was that was handed over. */
const lists: number[] = [];
/** Numbers that were received from. */
let receives: number[] = [];
let releaseAs: ((fd: number) => number) | null = null;

const addon = streamBinding();
const calls: StreamCalls = {
  streamsOpen(callback) {
    const memory = addon.streamsOpen(() => {
      lists.push(new Uint32Array(memory)[0] ?? 0);
      callback();
    });
    return memory;
  },
  streamAdd: (fd) => addon.streamAdd(fd),
  streamWatch: (stream, what) => addon.streamWatch(stream, what),
  streamReceive: (stream, buffer, at, length) => {
    receives.push(stream);
    return addon.streamReceive(stream, buffer, at, length);
  },
  streamSend: (stream, buffer, at, length, more) => addon.streamSend(stream, buffer, at, length, more),
  streamShutdown: (stream) => addon.streamShutdown(stream),
  streamClose: (stream) => addon.streamClose(stream),
  streamRelease: (stream) => {
    const fd = addon.streamRelease(stream);
    return releaseAs === null ? fd : releaseAs(fd);
  },
};
const open = directStreams(calls);

class Peer implements StreamUser {
  stream: ByteStream | null = null;
  text = '';
  failure: string | null = null;
  closes = 0;
  onText: () => void = () => undefined;
  readonly client: Socket;
  readonly gone = Promise.withResolvers<undefined>();
  readonly #space = Buffer.alloc(16);

  constructor(client: Socket) {
    this.client = client;
  }

  space(): Buffer {
    return this.#space;
  }

  received(bytes: number): void {
    this.text += this.#space.toString('latin1', 0, bytes);
    this.onText();
  }

  ended(): void {
    this.stream?.destroy();
  }

  failed(reason: string): void {
    this.failure = reason;
  }

  closed(): void {
    this.closes++;
    this.gone.resolve(undefined);
  }

  async end(): Promise<void> {
    this.client.destroy();
    this.stream?.destroy();
    await this.gone.promise;
  }
}

function begin({ peer, socket }: { readonly peer: Peer; readonly socket: Socket }): void {
  peer.stream = open(socket, peer);
  peer.stream.resume();
}

/** What this process may open: the soft limit, which Node has raised to the hard one. */
function needDescriptors(count: number): void {
  const limit = /^Max open files +(\S+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1];
  assert.ok(limit === 'unlimited' || Number(limit) >= count, `takes ${count} descriptors, of ${limit}: see ulimit -Hn`);
}

describe('the list of ready sockets', { timeout: 60_000 }, () => {
  let folder = '';
  let server: Server;
  const accepted: Socket[] = [];

  before(async () => {
    folder = await mkdtemp(join(tmpdir(), 'orion-ready-'));
    server = createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => accepted.push(socket));
    server.listen({ path: join(folder, 's'), backlog: 4096 });
    await once(server, 'listening');
  });
  after(async () => {
    server.close();
    await once(server, 'close');
    await rm(folder, { recursive: true });
  });

  /** Connected pairs, of which our sides are not streams yet. */
  async function pairs(count: number): Promise<{ readonly peer: Peer; readonly socket: Socket }[]> {
    const found: { peer: Peer; socket: Socket }[] = [];
    for (let i = 0; i < count; i++) {
      const client = connect(join(folder, 's'));
      client.on('error', () => undefined);
      await once(client, 'connect');
      while (accepted.length === 0) await once(server, 'connection');
      found.push({ peer: new Peer(client), socket: accepted.shift()! });
    }
    return found;
  }

  test('more sockets are ready in one turn than it holds', async () => {
    needDescriptors(3200);
    const all = await pairs(1500);
    all.forEach(begin);
    lists.length = 0;
    let left = all.length;
    const done = Promise.withResolvers<undefined>();
    for (const [index, { peer }] of all.entries()) {
      peer.onText = () => {
        if (--left === 0) done.resolve(undefined);
      };
      peer.client.write(String(index));
    }
    await done.promise;
    assert.equal(lists[0], ENTRIES);
    // Who is told of last before the loop looks again may be told of twice.
    assert.ok(lists.reduce((sum, count) => sum + count, 0) >= all.length);
    for (const [index, { peer }] of all.entries()) assert.equal(peer.text, String(index));
    await Promise.all(all.map(({ peer }) => peer.end()));
  });

  test('who is told first closes all the others, in the list and behind it, and opens new ones', async () => {
    needDescriptors(5800);
    const all = await pairs(2800);
    const [old, fresh] = [all.slice(0, 1400), all.slice(1400)];
    old.forEach(begin);
    lists.length = 0;
    receives = [];
    const told = Promise.withResolvers<Peer>();
    let first: Peer | null = null;
    let left = fresh.length;
    const done = Promise.withResolvers<undefined>();
    for (const { peer } of fresh) {
      peer.onText = () => {
        if (--left === 0) done.resolve(undefined);
      };
    }
    for (const { peer } of old) {
      peer.onText = () => {
        assert.equal(first, null, 'a closed stream is told nothing');
        first = peer;
        for (const { peer: other } of old) if (other !== peer) other.stream?.destroy();
        // These get the numbers of those.
        fresh.forEach(begin);
        told.resolve(peer);
      };
      peer.client.write('old');
    }
    const one = await told.promise;
    assert.equal(one.text, 'old');
    // Entries of the closed ones said nothing to the new ones, which have no bytes.
    assert.deepEqual([lists[0], receives.length], [ENTRIES, 1]);
    for (const { peer } of old) assert.equal(peer.text, peer === one ? 'old' : '');
    for (const { peer } of fresh) {
      assert.deepEqual([peer.text, peer.failure, peer.closes], ['', null, 0]);
      peer.client.write('fresh');
    }
    await done.promise;
    for (const { peer } of fresh) assert.equal(peer.text, 'fresh');
    await Promise.all(all.map(({ peer }) => peer.end()));
  });

  test('a socket that Node does not take is closed, and its user told', async () => {
    const [pair] = await pairs(1);
    assert.ok(pair !== undefined);
    begin(pair);
    const { peer } = pair;
    const descriptors = readdirSync('/proc/self/fd').length;
    const closedByClient = once(peer.client, 'close');
    releaseAs = (fd) => {
      peer.client.end();
      assert.ok(fd >= 0);
      closeSync(fd);
      return openSync('/', O_PATH);
    };
    assert.equal(peer.stream?.release(), null);
    releaseAs = null;
    assert.equal(peer.closes, 0, 'not before the call is over');
    await peer.gone.promise;
    assert.match(peer.failure ?? '', /EBADF/);
    peer.stream?.destroy();
    await closedByClient;
    assert.ok(readdirSync('/proc/self/fd').length < descriptors);
    assert.equal(peer.closes, 1);
  });
});
