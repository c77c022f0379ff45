/**
 * What tests of devices share: requests submitted in a batch and awaited, and temporary files and loop devices.
 *
 * Invariants
 *  - A completion inside `submit`, a second completion, or one for a request that was not submitted fails the test.
 *  - Everything made here is removed by its own `dispose`.
 */
import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { mkdtemp, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { BlockDevice } from '../../src/block/device.ts';
import { IoRequest, Op, type RequestOwner } from '../../src/block/request.ts';

const run = promisify(execFile);

export interface IoCommand {
  readonly op: Op;
  readonly offset?: number;
  readonly length?: number;
  readonly flags?: number;
  readonly buffer?: Buffer;
  readonly bufferOffset?: number;
}

/** Submits a batch and waits for it, checking each request's completion. */
export class Batch implements RequestOwner {
  /** Requests in order of completion. */
  readonly completed: IoRequest[] = [];
  readonly #waiting = new Set<IoRequest>();
  #submitting = false;
  #resolve: (() => void) | null = null;

  submit(device: BlockDevice, command: IoCommand): IoRequest {
    const request = makeRequest(command);
    request.owner = this;
    this.#waiting.add(request);
    this.#submitting = true;
    try {
      device.submit(request);
    } catch (error) {
      this.#waiting.delete(request);
      throw error;
    } finally {
      this.#submitting = false;
    }
    return request;
  }

  ioDone(request: IoRequest): void {
    assert(!this.#submitting, 'a request was completed inside submit');
    assert(this.#waiting.delete(request), 'a request was completed twice');
    this.completed.push(request);
    if (this.#waiting.size === 0) this.#resolve?.();
  }

  get outstanding(): number {
    return this.#waiting.size;
  }

  async done(): Promise<void> {
    if (this.#waiting.size === 0) return;
    await new Promise<void>((resolve) => {
      this.#resolve = resolve;
    });
  }
}

export function makeRequest(command: IoCommand): IoRequest {
  const request = new IoRequest();
  request.op = command.op;
  request.offset = command.offset ?? 0;
  request.length = command.length ?? command.buffer?.length ?? 0;
  request.flags = command.flags ?? 0;
  if (command.buffer !== undefined) request.buffer = command.buffer;
  request.bufferOffset = command.bufferOffset ?? 0;
  return request;
}

/** Submits one request, waits, and gives its errno. */
export async function perform(device: BlockDevice, command: IoCommand): Promise<number> {
  const batch = new Batch();
  const request = batch.submit(device, command);
  await batch.done();
  return request.error;
}

/** Submits one request that must succeed. */
export async function performOk(device: BlockDevice, command: IoCommand): Promise<void> {
  assert.equal(await perform(device, command), 0);
}

export async function readAt(device: BlockDevice, offset: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length, 0xee);
  await performOk(device, { op: Op.read, offset, buffer });
  return buffer;
}

/** Bytes that differ everywhere and are cheap to make. */
export function pattern(length: number, seed: number): Buffer {
  const bytes = Buffer.alloc(length);
  const words = new Uint32Array(bytes.buffer, bytes.byteOffset, Math.floor(length / 4));
  let state = (seed * 0x9e37_79b1) >>> 0 || 1;
  for (let i = 0; i < words.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    words[i] = state;
  }
  for (let i = words.length * 4; i < length; i++) bytes[i] = (seed + i) & 0xff;
  return bytes;
}

export interface TemporaryFile {
  readonly path: string;
  readonly dispose: () => Promise<void>;
}

/** What a failed test left behind is removed when the process ends. */
const leftovers = new Set<() => void>();
process.on('exit', () => {
  for (const remove of [...leftovers].reverse()) remove();
});

function disposable(path: string, remove: () => void): TemporaryFile {
  leftovers.add(remove);
  return {
    path,
    dispose: () => {
      leftovers.delete(remove);
      remove();
      return Promise.resolve();
    },
  };
}

/** A sparse file in a directory of its own. */
export async function temporaryFile(sizeBytes: number, parent: string = tmpdir()): Promise<TemporaryFile> {
  const directory = await mkdtemp(join(parent, 'orion-block-'));
  const path = join(directory, 'disk.img');
  await writeFile(path, '');
  await truncate(path, sizeBytes);
  return disposable(path, () => {
    rmSync(directory, { recursive: true });
  });
}

/** A loop device over a sparse file of its own. Needs root. */
export async function temporaryLoop(sizeBytes: number, losetupOptions: readonly string[] = []): Promise<TemporaryFile> {
  const file = await temporaryFile(sizeBytes);
  const { stdout } = await run('losetup', ['--find', '--show', ...losetupOptions, file.path]);
  const loop = disposable(stdout.trim(), () => {
    execFileSync('losetup', ['--detach', stdout.trim()]);
  });
  return {
    path: loop.path,
    dispose: async () => {
      await loop.dispose();
      await file.dispose();
    },
  };
}
