/**
 * Clients that go from one set of sessions to another, on real sockets: whatever they have sent, and whether they take their answers or
 * not, they lose no byte; and those who are not asked notice nothing.
 */
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import { FaultyDevice } from '../../src/block/faulty.ts';
import { MemoryDevice } from '../../src/block/memory.ts';
import { clientStreams } from '../../src/daemon/streams.ts';
import { openNodeStream, type StreamOpener } from '../../src/nbd/byte-stream.ts';
import { OptionType } from '../../src/nbd/constants.ts';
import type { Connection, Released } from '../../src/nbd/connection.ts';
import { PLAIN } from '../../src/nbd/features.ts';
import type { Negotiated } from '../../src/nbd/option-replies.ts';
import { DEFAULT_LIMITS, SILENT } from '../../src/nbd/server.ts';
import { NbdSessions, type SessionLimits } from '../../src/nbd/sessions.ts';
import { waitFor } from '../helpers/daemon.ts';
import { makeExport, type TestExport } from './exports.ts';
import { OwnServer } from './own-server.ts';
import { CMD, request, type WireClient } from './wire.ts';

const SIZE = 4 * 2 ** 20;
const PLENTY_MS = 60_000;
const ALL = (): boolean => true;

function negotiated(leftover: Uint8Array = Buffer.alloc(0)): Negotiated {
  return {
    exportName: 'vg/lv',
    option: OptionType.go,
    noZeroes: true,
    infoTypes: [],
    info: {
      name: 'vg/lv',
      description: '',
      sizeBytes: SIZE,
      flags: 0,
      minimumBlockSize: 1,
      preferredBlockSize: 4096,
      maximumBlockSize: 64 * 2 ** 20,
    },
    features: PLAIN,
    leftover,
  };
}

interface Stand {
  readonly device: FaultyDevice;
  readonly places: readonly [NbdSessions, NbdSessions];
  /** Connections that have ended, of each place; released ones, too. */
  readonly closed: readonly [Connection[], Connection[]];
  /** A client of the first place. */
  readonly client: () => Promise<WireClient>;
  /** Moves clients from a place to the other; gives who stays. */
  readonly move: (
    from: 0 | 1,
    isOne?: (connection: Connection) => boolean,
    workMs?: number,
  ) => Promise<readonly number[]>;
  /** What went with the last one that was moved. */
  readonly last: () => Released;
}

async function stand(t: TestContext, limits: Partial<SessionLimits> = {}, open?: StreamOpener): Promise<Stand> {
  const device = new FaultyDevice(new MemoryDevice({ sizeBytes: SIZE }));
  const export_: TestExport = makeExport({ volume: device });
  const closed: [Connection[], Connection[]] = [[], []];
  const make = (index: 0 | 1): NbdSessions =>
    new NbdSessions({
      limits: { ...DEFAULT_LIMITS, ...limits },
      log: SILENT,
      openStream: open ?? clientStreams(),
      onClosed: (connection) => void closed[index].push(connection),
    });
  const places = [make(0), make(1)] as const;
  const folder = await mkdtemp(join(tmpdir(), 'orion-give-'));
  const server = await OwnServer.listen(join(folder, 's'));
  t.after(async () => {
    await server[Symbol.asyncDispose]();
    await Promise.all(places.map((place) => place.close()));
    for (const place of places) assert.equal(place.payloadBytes, 0, 'memory that nobody uses is accounted for');
    await rm(folder, { recursive: true });
  });
  let last: Released | null = null;
  let nextId = 1;
  return {
    device,
    places,
    closed,
    async client() {
      const { client, socket } = await server.connected();
      const start = { id: nextId++, peer: 'test', export: export_, negotiated: negotiated() };
      places[0].adopt({ ...start, resumed: true }, socket);
      return client;
    },
    move(from, isOne = ALL, workMs = PLENTY_MS) {
      return places[from].give(isOne, workMs, (id, released) => {
        last = released;
        const { socket, leftover, unsent } = released;
        const start = { id, peer: 'test', export: export_, negotiated: negotiated(leftover) };
        places[from === 0 ? 1 : 0].adopt({ ...start, resumed: true, unsent }, socket);
      });
    },
    last() {
      assert(last !== null);
      return last;
    },
  };
}

function pattern(): Buffer {
  const bytes = Buffer.alloc(SIZE);
  for (let at = 0; at < SIZE; at += 4) bytes.writeUInt32BE(Math.imul(at, 0x9e3779b1) >>> 0, at);
  return bytes;
}

/** Writes the whole device through a client. */
async function filled(client: WireClient): Promise<Buffer> {
  const bytes = pattern();
  client.send(request({ type: CMD.write, offset: 0, payload: bytes }));
  assert.equal((await client.reply()).error, 0);
  return bytes;
}

test('who takes no answers is moved with a megabyte and more of them and with what is held back, again and again', async (t) => {
  const maxBytes = 2 * 2 ** 20;
  const { places, closed, client, move, last } = await stand(t, { maxBytesPerConnection: maxBytes });
  const one = await client();
  const bytes = await filled(one);
  const LENGTH = 256 * 1024;
  const READS = 60;
  one.socket.pause();
  for (let i = 0; i < READS; i++) {
    one.send(request({ type: CMD.read, cookie: BigInt(i), offset: (i % 16) * LENGTH, length: LENGTH }));
  }
  await waitFor('the limits to be reached', () => (places[0].connections()[0]?.bytesInFlight ?? 0) > maxBytes - LENGTH);
  let from: 0 | 1 = 0;
  const unsent: number[] = [];
  for (let round = 0; round < 7; round++) {
    assert.deepEqual(await move(from), []);
    unsent.push(last().unsent.length);
    assert.ok(last().leftover.length >= 28, 'a command is held back');
    assert.deepEqual(places[from].connections(), []);
    from = from === 0 ? 1 : 0;
    const [moved] = places[from].connections();
    assert.ok(moved !== undefined && moved.bytesInFlight <= maxBytes, 'it does not grow');
    assert.equal(places[from].payloadBytes, moved.bytesInFlight);
  }
  assert.ok(
    unsent.every((count) => count > 2 ** 19 && count <= maxBytes),
    String(unsent),
  );
  one.socket.resume();
  const seen = new Set<bigint>();
  for (let i = 0; i < READS; i++) {
    const { cookie, error, data } = await one.reply(LENGTH);
    const offset = (Number(cookie) % 16) * LENGTH;
    assert.ok(error === 0 && data.equals(bytes.subarray(offset, offset + LENGTH)), `READ ${cookie}`);
    seen.add(cookie);
    // In the middle of it, too.
    if (i % 10 === 5) {
      assert.deepEqual(await move(from), []);
      from = from === 0 ? 1 : 0;
    }
  }
  assert.equal(seen.size, READS);
  await waitFor('the memory to be free', () => places[from].payloadBytes === 0);
  const all = [...closed[0], ...closed[1]];
  assert.equal(all.length, 13);
  assert.ok(
    all.every(({ released }) => released),
    'it has not ended',
  );
});

test("what Node's streams have can't be taken back: who does not take it stays, and goes on; who takes it is moved", async (t) => {
  const { places, client, move } = await stand(t, {}, openNodeStream);
  const one = await client();
  one.socket.pause();
  const LENGTH = 2 ** 21;
  for (let i = 0; i < 8; i++) one.send(request({ type: CMD.read, cookie: BigInt(i), length: LENGTH }));
  await waitFor('the READs', () => places[0].connections()[0]?.counters?.reads === 8);
  assert.deepEqual(await move(0, ALL, 20), [1]);
  const moved = move(0);
  one.socket.resume();
  for (let i = 0; i < 8; i++) assert.equal((await one.reply(LENGTH)).error, 0);
  assert.deepEqual(await moved, []);
  one.send(request({ type: CMD.flush, cookie: 9n }));
  assert.equal((await one.reply()).cookie, 9n);
  assert.equal(places[1].connections().length, 1);
});

test("what Node's streams read lands behind what came along: parts of headers and of payloads", async (t) => {
  const { client, move, last } = await stand(t, {}, openNodeStream);
  const one = await client();
  const bytes = pattern();
  let from: 0 | 1 = 0;
  for (const [i, cut] of [13, 28, 5000, 28 + 60_000, 28 + 90_000].entries()) {
    const payload = bytes.subarray(i * 100_000, (i + 1) * 100_000);
    const whole = request({ type: CMD.write, cookie: 7n, offset: i * 100_000, payload });
    one.send(request({ type: CMD.flush, cookie: 1n }), whole.subarray(0, cut));
    await one.reply();
    assert.deepEqual(await move(from), []);
    from = from === 0 ? 1 : 0;
    assert.ok(last().leftover.length > 0, 'it was cut');
    one.send(whole.subarray(cut));
    assert.deepEqual(await one.reply().then(({ cookie, error }) => [cookie, error]), [7n, 0]);
    one.send(request({ type: CMD.read, cookie: 8n, offset: i * 100_000, length: payload.length }));
    assert.ok((await one.reply(payload.length)).data.equals(payload), `cut at ${cut}`);
  }
});

test('who is not done in time stays, and goes on; others go on meanwhile', async (t) => {
  const { places, closed, device, client, move } = await stand(t);
  const [one, other] = [await client(), await client()];
  device.decide = ({ length }) => ({ kind: length === 5 ? 'hold' : 'pass' });
  one.send(request({ type: CMD.read, cookie: 1n, length: 5 }));
  await device.whenHeld(1);
  one.send(request({ type: CMD.flush, cookie: 2n }));
  const moving = move(0, ({ id }) => id === 1, 200);
  for (let i = 0; i < 50; i++) {
    other.send(request({ type: CMD.write, cookie: BigInt(i), payload: Buffer.alloc(100, i) }));
    assert.equal((await other.reply()).cookie, BigInt(i));
  }
  assert.deepEqual(await moving, [1]);
  assert.equal((await one.reply()).cookie, 2n);
  device.releaseAll();
  assert.equal((await one.reply(5)).cookie, 1n);
  assert.deepEqual(closed, [[], []]);
  assert.deepEqual(await move(0, ({ id }) => id === 1), []);
  assert.deepEqual(
    places.map((place) => place.connections().map(({ id }) => id)),
    [[2], [1]],
  );
});

test('in the middle of a WRITE that is refused a client is moved behind it; in that of a good one, and of a header, at once', async (t) => {
  const { places, client, move } = await stand(t);
  const one = await client();
  const good = Buffer.alloc(100_000, 5);
  const wholes = [
    [request({ type: CMD.write, cookie: 3n, offset: SIZE, payload: good }), 50_000, 28],
    [request({ type: CMD.write, cookie: 4n, offset: 1, payload: good }), 50_000, 0],
    [request({ type: CMD.flush, cookie: 5n }), 13, 0],
  ] as const;
  let from: 0 | 1 = 0;
  for (const [whole, cut, error] of wholes) {
    one.send(request({ type: CMD.flush, cookie: 1n }), whole.subarray(0, cut));
    await one.reply();
    const moving = move(from);
    if (error === 0) await moving;
    one.send(whole.subarray(cut));
    assert.equal((await one.reply()).error, error);
    assert.deepEqual(await moving, []);
    from = from === 0 ? 1 : 0;
  }
  one.send(request({ type: CMD.read, offset: 1, length: good.length }));
  assert.ok((await one.reply(good.length)).data.equals(good));
  assert.equal(places[from].connections().length, 1);
});

test('one that does not send the rest of such a WRITE is let go', async (t) => {
  const { closed, client, move } = await stand(t);
  const one = await client();
  const whole = request({ type: CMD.write, cookie: 3n, offset: SIZE, payload: Buffer.alloc(100_000) });
  one.send(request({ type: CMD.flush, cookie: 1n }), whole.subarray(0, 50_000));
  await one.reply();
  assert.deepEqual(await move(0), []);
  assert.equal((await one.rest()).length, 0);
  one.close();
  await waitFor('its end', () => closed[0].length === 1);
  assert.equal(closed[0][0]?.released, false);
});

test('who leaves does so where he is, and is not told of as one who stays', async (t) => {
  const { closed, device, client, move } = await stand(t);
  const one = await client();
  device.decide = () => ({ kind: 'hold' });
  one.send(request({ type: CMD.read, cookie: 1n, length: 5 }), request({ type: CMD.disc }));
  await device.whenHeld(1);
  const moving = move(0);
  device.releaseAll();
  assert.deepEqual(await moving, []);
  assert.equal((await one.reply(5)).cookie, 1n);
  assert.equal((await one.rest()).length, 0);
  one.close();
  await waitFor('its end', () => closed[0].length === 1);
  assert.equal(closed[0][0]?.released, false);
});

test('who is let go meanwhile ends where he is', async (t) => {
  const { places, closed, device, client, move } = await stand(t);
  const one = await client();
  device.decide = () => ({ kind: 'hold' });
  one.send(request({ type: CMD.read, cookie: 1n, length: 5 }));
  await device.whenHeld(1);
  const moving = move(0);
  const gone = places[0].disconnect(() => true);
  device.releaseAll();
  assert.equal((await one.reply(5)).cookie, 1n);
  assert.equal((await one.rest()).length, 0);
  one.close();
  await gone;
  assert.deepEqual(await moving, []);
  assert.equal(closed[0][0]?.released, false);
});

test('a move gives way to a hand-over, and there is none while everything is quiet', async (t) => {
  const { places, device, client, move } = await stand(t);
  const one = await client();
  device.decide = () => ({ kind: 'hold' });
  one.send(request({ type: CMD.read, cookie: 1n, length: 5 }));
  await device.whenHeld(1);
  const moving = move(0);
  const again = move(0);
  const quiet = places[0].quiesce({ workMs: PLENTY_MS, answerMs: PLENTY_MS });
  assert.deepEqual(await again, [1]);
  assert.deepEqual(await moving, [1]);
  device.decide = () => ({ kind: 'pass' });
  device.releaseAll();
  assert.equal(await quiet, 0);
  assert.deepEqual(await move(0), [1]);
  one.send(request({ type: CMD.flush, cookie: 2n }));
  assert.equal((await one.reply(5)).cookie, 1n);
  places[0].goOn();
  assert.equal((await one.reply()).cookie, 2n);
});
