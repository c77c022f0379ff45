/**
 * A client that writes to an export without end, and knows what it was told: for tests that kill servers and move what is served.
 *
 * Invariants
 *  - Of each block there are versions. When a connection is lost, writes that had no answer may have been done or not; all others were.
 *  - A write to a block is sent only when the one before it was answered, or its connection was lost.
 */
import assert from 'node:assert/strict';
import { setTimeout as delay } from 'node:timers/promises';
import { clientFlags, CMD, option, query, request, WireClient } from '../nbd/wire.ts';

const BLOCK = 4096;
const RUN_BLOCKS = 256;
const ZEROS: Buffer = Buffer.alloc(BLOCK);
const DEPTH = 16;

export class NbdWriter {
  readonly #socket: () => string;
  readonly #export: string;
  readonly #blocks: number;
  /** Of each block the last version that was sent, and the last that was answered. */
  readonly #sent: Uint32Array;
  readonly #answered: Uint32Array;
  #stopped = false;
  #running: Promise<void> | null = null;
  #state = 1;
  writes = 0;
  reconnects = -1;

  constructor(socket: () => string, exportName: string, sizeBytes: number) {
    this.#socket = socket;
    this.#export = exportName;
    this.#blocks = Math.floor(sizeBytes / BLOCK);
    this.#sent = new Uint32Array(this.#blocks);
    this.#answered = new Uint32Array(this.#blocks);
  }

  start(): void {
    this.#stopped = false;
    this.#running = this.#run();
  }

  /** Rejects if a server answered wrongly. */
  async stop(): Promise<void> {
    this.#stopped = true;
    await this.#running;
  }

  async #run(): Promise<void> {
    while (!this.#stopped) {
      const client = await this.#connect();
      if (client === null) {
        await delay(20);
        continue;
      }
      this.reconnects++;
      try {
        while (!this.#stopped) await this.#round(client);
      } catch (error) {
        // Whoever kills a server closes its connections.
        if (!(error instanceof assert.AssertionError) || !error.message.startsWith('the server closed')) throw error;
      }
      client.close();
    }
  }

  async #connect(): Promise<WireClient | null> {
    try {
      const client = await WireClient.open(this.#socket());
      await client.take(18);
      client.send(clientFlags(), option(7, query(this.#export)));
      for (;;) {
        const { type } = await client.optionReply();
        if (type === 1) return client;
        if (type >= 2 ** 31) {
          client.close();
          return null;
        }
      }
    } catch {
      return null;
    }
  }

  #next(limit: number): number {
    this.#state = (Math.imul(this.#state, 1_103_515_245) + 12_345) >>> 0;
    return (this.#state >>> 8) % limit;
  }

  /** Writes blocks, now and then with a flush behind them, and waits for the answers. */
  async #round(client: WireClient): Promise<void> {
    const blocks = [...new Set(Array.from({ length: DEPTH }, () => this.#next(this.#blocks)))];
    const messages = blocks.map((block) => {
      const version = this.#sent[block]! + 1;
      this.#sent[block] = version;
      const payload = contentOf(block, version);
      return request({ type: CMD.write, cookie: BigInt(block), offset: block * BLOCK, payload });
    });
    if (this.#next(4) === 0) messages.push(request({ type: CMD.flush, cookie: BigInt(this.#blocks) }));
    client.send(...messages);
    for (let count = messages.length; count > 0; count--) {
      const reply: Buffer = await client.take(16);
      const block = Number(reply.readBigUInt64BE(8));
      assert.equal(reply.readUInt32BE(4), 0, `block ${block} of ${this.#export} failed`);
      if (block === this.#blocks) continue;
      this.#answered[block] = this.#sent[block]!;
      this.writes++;
    }
  }

  /** Reads everything and compares; call it when the writer is stopped. */
  async verify(): Promise<void> {
    const client = await this.#connect();
    assert(client !== null, `${this.#export} is not served`);
    for (let first = 0; first < this.#blocks; first += RUN_BLOCKS) {
      const count = Math.min(RUN_BLOCKS, this.#blocks - first);
      client.send(request({ type: CMD.read, offset: first * BLOCK, length: count * BLOCK }));
      const header: Buffer = await client.take(16);
      assert.equal(header.readUInt32BE(4), 0);
      const found: Buffer = await client.take(count * BLOCK);
      for (let i = 0; i < count; i++) this.#verifyBlock(first + i, found.subarray(i * BLOCK, (i + 1) * BLOCK));
    }
    client.close();
  }

  #verifyBlock(block: number, found: Buffer): void {
    const version = found.readUInt32BE(0);
    const [least, most] = [this.#answered[block]!, this.#sent[block]!];
    const where = `block ${block} of ${this.#export}`;
    assert(version >= least && version <= most, `${where} is version ${version}, of ${least} to ${most}`);
    const expected = version === 0 ? ZEROS : contentOf(block, version);
    assert(found.equals(expected), `${where} is torn`);
    // What a lost connection left open is known now.
    this.#answered[block] = version;
  }
}

function contentOf(block: number, version: number): Buffer {
  const bytes = Buffer.alloc(BLOCK, (block * 31 + version * 7) & 0xff);
  bytes.writeUInt32BE(version, 0);
  bytes.writeUInt32BE(block, 4);
  return bytes;
}
