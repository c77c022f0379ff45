/**
 * Backup images without a daemon: random contents and changes come back as they were, and whatever is wrong with a file, or with the order
 * of several, is found before anything is written.
 */
import assert from 'node:assert/strict';
import { readdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import { streamSink, withNewFile } from '../../src/cli/backup/image-sink.ts';
import { ImageChain, ImageFile } from '../../src/cli/backup/read-image.ts';
import type { WorkVolume } from '../../src/cli/backup/volumes.ts';
import { writeImage, type Written } from '../../src/cli/backup/write-image.ts';
import { StreamOutput } from '../../src/cli/messages.ts';
import { run } from '../../src/cli/run.ts';
import type { Stretch } from '../../src/lvm/direct-volumes.ts';
import { encodeHeader, headerLength, type ImageHeader, RECORD_BYTES } from '../../src/ondisk/backup-image.ts';
import { FormatError } from '../../src/ondisk/errors.ts';
import { pattern } from '../block/harness.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { NOBODY } from '../helpers/terminal.ts';

const MIB = 2 ** 20;
const NEVER = new AbortController().signal;

function stretches(offset: number, length: number, is: (at: number, end: number) => boolean): readonly Stretch[] {
  const found: Stretch[] = [];
  for (let at = offset; at < offset + length && found.length < 5;) {
    const end = Math.min((Math.floor(at / 4096) + 1) * 4096, offset + length);
    found.push({ length: end - at, is: is(at, end) });
    at = end;
  }
  return found;
}

/** A volume in memory that says of each 4 KiB whether they are zeroes, and whether they may differ from another. */
function volumeOf(name: string, content: Buffer, base: Buffer | null = null): WorkVolume {
  return {
    name: `vg/${name}`,
    id: `VG/${name}`,
    sizeBytes: content.length,
    readOnly: false,
    clients: 0,
    read: (offset, length) => Promise.resolve(Buffer.from(content.subarray(offset, offset + length))),
    write: (offset, bytes) => {
      bytes.copy(content, offset);
      return Promise.resolve();
    },
    writeZeroes: (offset, length) => {
      content.fill(0, offset, offset + length);
      return Promise.resolve();
    },
    flush: () => Promise.resolve(),
    zeroes: (offset, length) =>
      Promise.resolve(stretches(offset, length, (at, end) => content.subarray(at, end).every((byte) => byte === 0))),
    // One chunk in four is named though it is the same.
    changes: (offset, length) =>
      Promise.resolve(
        stretches(offset, length, (at, end) => {
          const same = base !== null && base.subarray(at, end).equals(content.subarray(at, end));
          return !same || Math.floor(at / 4096) % 4 === 0;
        }),
      ),
  };
}

function backUp(
  path: string,
  name: string,
  content: Buffer,
  base?: { readonly name: string; readonly content: Buffer },
): Promise<Written> {
  return withNewFile(path, { replace: true }, (sink) =>
    writeImage(
      {
        volume: volumeOf(name, content, base?.content ?? null),
        base: base === undefined ? null : volumeOf(base.name, base.content),
      },
      sink,
      { createdAt: 1, generator: 'test', signal: NEVER, onProgress: () => undefined },
    ),
  );
}

async function withChain<Result>(
  paths: readonly string[],
  use: (chain: ImageChain) => Promise<Result>,
): Promise<Result> {
  const images: ImageFile[] = [];
  try {
    for (const path of paths) images.push(await ImageFile.open(path));
    return await use(new ImageChain(images));
  } finally {
    for (const image of images) await image.close();
  }
}

const unheard = (): undefined => undefined;

async function checked(chain: ImageChain, ground: Buffer | null = null): Promise<void> {
  chain.checkOrder();
  await chain.verify(unheard);
  await chain.checkBases(ground === null ? null : volumeOf('ground', ground), unheard);
}

async function applied(chain: ImageChain, content: Buffer): Promise<Buffer> {
  for (const image of chain.images) {
    for (const record of image.records) {
      (await image.read(record, record.offset, record.length)).copy(content, record.offset);
    }
  }
  return content;
}

const change = fc.record({
  offset: fc.nat({ max: 2 * MIB }),
  length: fc.oneof(fc.integer({ min: 1, max: 5000 }), fc.constant(MIB + 7)),
  byte: fc.constantFrom(0, 0, 1, 2, 3),
});

function changed(content: Buffer, changes: readonly { offset: number; length: number; byte: number }[]): Buffer {
  const next = Buffer.from(content);
  for (const { offset, length, byte } of changes) next.fill(byte, offset, Math.min(offset + length, next.length));
  return next;
}

describe('a backup image', () => {
  test('gives back what was there, full or through a chain, with volumes that grow', async () => {
    await withTemporaryFolder(async (folder) => {
      await fc.assert(
        fc.asyncProperty(
          fc.array(fc.array(change, { maxLength: 4 }), { minLength: 1, maxLength: 3 }),
          async (steps) => {
            const first = Buffer.concat([pattern(MIB + 5000, 3), Buffer.alloc(MIB)]);
            const contents: Buffer[] = [first];
            const paths = [join(folder, '0')];
            await backUp(paths[0]!, 's0', first);
            for (const [index, changes] of steps.entries()) {
              const before = contents.at(-1)!;
              const grown = index === 1 ? Buffer.concat([before, Buffer.alloc(300_000, 0)]) : before;
              const next = changed(grown, changes);
              paths.push(join(folder, `${index + 1}`));
              contents.push(next);
              await backUp(paths.at(-1)!, `s${index + 1}`, next, { name: `s${index}`, content: before });
            }
            await withChain(paths, async (chain) => {
              await checked(chain);
              const last = contents.at(-1)!;
              assert(chain.startsFull && chain.sizeBytes === last.length);
              assert((await applied(chain, Buffer.alloc(last.length, 9))).equals(last));
            });
            // What was applied before can be gone on from.
            await withChain(paths.slice(1), async (chain) => {
              await checked(chain, first);
              assert(
                (await applied(chain, Buffer.concat([first, Buffer.alloc(chain.sizeBytes - first.length)]))).equals(
                  contents.at(-1)!,
                ),
              );
            });
          },
        ),
        { numRuns: 12 },
      );
    });
  });

  test('has no zeroes in it, and nothing that did not change', async () => {
    await withTemporaryFolder(async (folder) => {
      const path = join(folder, 'image');
      const content = Buffer.alloc(8 * MIB);
      pattern(4096, 1).copy(content, 3 * MIB);
      assert.deepEqual(await backUp(path, 's0', content), { dataBytes: 4096, zeroBytes: 8 * MIB - 4096 });
      const next = changed(content, [{ offset: 5 * MIB, length: 10, byte: 7 }]);
      assert.deepEqual(await backUp(path, 's1', next, { name: 's0', content }), { dataBytes: 4096, zeroBytes: 0 });
      assert((await readFile(path)).length < 5000);
    });
  });

  test('is refused when any byte of it is another, or it ends anywhere else', async () => {
    await withTemporaryFolder(async (folder) => {
      const path = join(folder, 'image');
      const content = changed(pattern(20_000, 1), [{ offset: 5000, length: 8000, byte: 0 }]);
      await backUp(path, 's1', content, { name: 's0', content: pattern(20_000, 2) });
      const good = await readFile(path);
      await withChain([path], (chain) => checked(chain));
      const bad = join(folder, 'bad');
      const refuses = async (bytes: Buffer, what: string): Promise<void> => {
        await writeFile(bad, bytes);
        await assert.rejects(
          withChain([bad], (chain) => checked(chain)),
          FormatError,
          what,
        );
      };
      for (let at = 0; at < good.length; at += at < 700 ? 3 : 997) {
        const bytes = Buffer.from(good);
        bytes[at]! ^= 1 << (at % 8);
        await refuses(bytes, `byte ${at}`);
      }
      for (let length = 0; length < good.length; length += length < 700 ? 5 : 1009) {
        await refuses(good.subarray(0, length), `${length} bytes`);
      }
      await refuses(Buffer.concat([good, Buffer.alloc(1)]), 'one byte more');
    });
  });

  test('applies only to what it was taken against', async () => {
    await withTemporaryFolder(async (folder) => {
      const [a, b, c] = [pattern(MIB, 1), pattern(MIB, 1), pattern(MIB, 1)] as const;
      b.fill(1, 0, 4096);
      c.fill(2, 0, 8192);
      const path = (name: string): string => join(folder, name);
      await backUp(path('a'), 'a', a);
      await backUp(path('ab'), 'b', b, { name: 'a', content: a });
      await backUp(path('bc'), 'c', c, { name: 'b', content: b });
      const chain = (...names: readonly string[]): ((ground: Buffer | null) => Promise<void>) => {
        return (ground) => withChain(names.map(path), (images) => checked(images, ground));
      };
      await chain('a', 'ab', 'bc')(null);
      await chain('ab', 'bc')(a);
      await chain('bc')(b);
      await assert.rejects(chain('a', 'bc')(null), /bc was taken since vg\/b/);
      await assert.rejects(chain('ab', 'a')(null), /can only be the first/);
      await assert.rejects(chain('bc')(a), /does not apply: at byte 0 the logical volume is not what vg\/b was/);
      // The snapshot was written after the backup that the next one goes on from.
      const written = Buffer.from(b);
      written.fill(5, 100, 200);
      await backUp(path('ab'), 'b', written, { name: 'a', content: a });
      await assert.rejects(chain('a', 'ab', 'bc')(null), /bc does not apply: at byte 0 .*ab is not what vg\/b was/);
    });
  });

  test('appears whole or not at all', async () => {
    await withTemporaryFolder(async (folder) => {
      const path = join(folder, 'image');
      const failing = withNewFile(path, { replace: false }, async (sink) => {
        await sink.write(Buffer.alloc(1000));
        throw new Error('a device failed');
      });
      await assert.rejects(failing, /a device failed/);
      assert.deepEqual(await readdir(folder), []);
      await withNewFile(path, { replace: false }, (sink) => sink.write(Buffer.alloc(10)));
      await assert.rejects(
        withNewFile(path, { replace: false }, (sink) => sink.write(Buffer.alloc(11))),
        /exists already/,
      );
      assert.deepEqual(await readdir(folder), ['image']);
      assert.equal((await readFile(path)).length, 10);
    });
  });
});

test('increments whose restore was interrupted apply again, and onto nothing else', async () => {
  await withTemporaryFolder(async (folder) => {
    const base = pattern(4 * MIB, 3);
    const one = changed(base, [
      { offset: 5000, length: 9000, byte: 1 },
      { offset: 2 * MIB, length: MIB, byte: 0 },
    ]);
    const two = changed(one, [
      { offset: 8192, length: 20_000, byte: 2 },
      { offset: 2 * MIB + 4096, length: 4096, byte: 3 },
    ]);
    const paths = [join(folder, '1'), join(folder, '2')];
    await backUp(paths[0]!, 's1', one, { name: 's0', content: base });
    await backUp(paths[1]!, 's2', two, { name: 's1', content: one });
    await withChain(paths, async (chain) => {
      const ground = Buffer.from(base);
      await checked(chain, ground);
      for (const image of chain.images) {
        for (const record of image.records) {
          (await image.read(record, record.offset, record.length)).copy(ground, record.offset);
          await chain.checkBases(volumeOf('ground', ground), unheard);
        }
      }
      assert.deepEqual(ground, two);
      ground[9000]! ^= 1;
      await assert.rejects(chain.checkBases(volumeOf('ground', ground), unheard), /does not apply/);
    });
  });
});

test('what is written was compared with its sum right before', async () => {
  await withTemporaryFolder(async (folder) => {
    const content = pattern(3 * MIB, 5);
    const path = join(folder, 'full');
    await backUp(path, 's', content);
    await withChain([path], async (chain) => {
      await checked(chain);
      const [image] = chain.images;
      assert(image !== undefined);
      const restored: Buffer[] = [];
      for (const record of image.records) restored.push(await image.readWhole(record));
      assert(Buffer.concat(restored).equals(content));
      const [first, second] = image.records;
      assert(first !== undefined && second !== undefined && first.length === second.length);
      const bytes = await readFile(path);
      // In the data, in the record before it, and with the data of another record of the same length.
      for (const at of [second.position + 77, second.position - 5]) {
        bytes[at]! ^= 1;
        await writeFile(path, bytes);
        await assert.rejects(image.readWhole(second), { code: 'BAD_CRC' });
        bytes[at]! ^= 1;
      }
      const end = first.position + first.length;
      bytes.copy(bytes, second.position - RECORD_BYTES, first.position - RECORD_BYTES, end);
      await writeFile(path, bytes);
      await assert.rejects(image.readWhole(second), { code: 'BAD_CRC' });
      assert((await image.readWhole(first)).equals(content.subarray(0, first.length)));
    });
  });
});

test('a stream that takes no more is a failure, not the end of the image', async () => {
  const stream = new Writable({ write: (_bytes, _encoding, done) => done(new Error('EPIPE')) });
  stream.on('error', unheard);
  const sink = streamSink(stream);
  await assert.rejects(sink.write(Buffer.alloc(9)), { name: 'CommandError' });
  await assert.rejects(sink.write(Buffer.alloc(9)), { name: 'CommandError' });
});

function headerOf(name: string): ImageHeader {
  return { volume: { name, id: 'i' }, base: null, sizeBytes: 1, createdAt: 1, generator: 'test' };
}

test('an interrupt ends the checks before the next record', async () => {
  await withTemporaryFolder(async (folder) => {
    const old = pattern(3 * MIB, 1);
    const changed = Buffer.from(old)
      .fill(7, 100, 5000)
      .fill(8, MIB + 100, MIB + 5000)
      .fill(9, 2 * MIB + 1, 2 * MIB + 9);
    await backUp(join(folder, 'full'), 'a', old);
    await backUp(join(folder, 'next'), 'b', changed, { name: 'a', content: old });
    for (const phase of ['Verifying', 'Comparing']) {
      const stop = new AbortController();
      let steps = 0;
      const update = (label: string): void => {
        if (label !== phase) return;
        steps++;
        stop.abort();
      };
      const said: string[] = [];
      const sink = { write: (text: string) => said.push(text) };
      const output = new StreamOutput(sink, sink);
      const terminal = { ...NOBODY, progress: { update, end: unheard } };
      const around = { cwd: folder, uid: 1000, now: 0, terminal, signal: stop.signal };
      const env = { LVM_SYSTEM_DIR: folder, ORION_LVM_CONTROL: '' };
      const status = await run(['restore', '--verify', 'full', 'next'], output, { ...around, env });
      output.flush();
      assert.deepEqual([phase, status, steps, said.join('')], [phase, 5, 1, '  Interrupted.\n']);
    }
  });
});

test('a description is written only as long as it can be read', () => {
  const around = JSON.stringify(headerOf('')).length;
  const bytes = encodeHeader(headerOf('n'.repeat(65_536 - around)));
  assert.equal(headerLength(bytes, { device: 'image', offset: 0 }), bytes.length);
  assert.throws(() => encodeHeader(headerOf('n'.repeat(65_537 - around))), /description of 65537 bytes/);
});
