/** pvck on PVs with any bytes changed, lists without end, texts cut anywhere: it ends with a finding, never with a fault. */
import assert from 'node:assert/strict';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import fc from 'fast-check';
import { run } from '../../src/cli/run.ts';
import { findTexts } from '../../src/cli/pvck/text-search.ts';
import { unpackGolden, withTemporaryFolder } from '../helpers/shared.ts';
import { Lines } from './fake-report.ts';
import { NOBODY } from '../helpers/terminal.ts';

const MODES = ['headers', 'metadata', 'metadata_all', 'metadata_search', 'metadata_area'];
/** The label's sector, the area's header, and the first texts. */
const HOT = [
  [512, 512],
  [4096, 512],
  [4608, 16 * 1024],
] as const;

interface Damage {
  readonly at: number;
  readonly bytes: Uint8Array;
}

const damage: fc.Arbitrary<Damage> = fc.constantFrom(...HOT).chain(([start, length]) =>
  fc.record({
    at: fc.integer({ min: start, max: start + length - 1 }),
    bytes: fc.uint8Array({ minLength: 1, maxLength: 24 }),
  }),
);

async function pvck(...argv: readonly string[]): Promise<{ status: number; lines: Lines }> {
  const lines = new Lines();
  const status = await run(['pvck', ...argv], lines, { env: {}, cwd: '/', uid: 0, now: 0, terminal: NOBODY });
  return { status, lines };
}

describe('pvck of damaged PVs', () => {
  test('any bytes of label, headers and texts', () =>
    withTemporaryFolder(async (folder) => {
      const { images } = await unpackGolden('basic', folder);
      const sound = (await readFile(images[0] ?? '')).subarray(0, 2 * 1024 * 1024);
      const path = join(folder, 'damaged.img');
      await fc.assert(
        fc.asyncProperty(fc.array(damage, { minLength: 1, maxLength: 4 }), async (damages) => {
          const bytes = Buffer.from(sound);
          for (const { at, bytes: news } of damages) bytes.set(news, at);
          await writeFile(path, bytes);
          for (const mode of MODES) {
            const { status, lines } = await pvck('--dump', mode, path);
            assert([0, 5].includes(status), `${mode}: ${status}`);
            assert(!lines.err.some((line) => line.startsWith('Internal error')), lines.err.join('\n'));
          }
        }),
        { numRuns: 40 },
      );
    }));

  test('an area full of starts of texts takes no long time', () => {
    const start = Buffer.from('vg {\nid = "x"\n'.padEnd(512, 'a'));
    const area = Buffer.concat(Array.from({ length: 256 }, () => start));
    const found = [...findTexts(area)];
    assert.equal(found.length, 255);
    assert(found.every(({ bytes }) => bytes.length <= area.length));
  });

  test('a text at the end of the area goes on after its header', () => {
    const area = Buffer.alloc(4096);
    const text = `vg {\nid = "I"\nseqno = 7\n${'#'.repeat(600)}\n}\n\n`;
    area.write(text.slice(0, 512), 3584, 'latin1');
    area.write(text.slice(512), 512, 'latin1');
    const [found] = [...findTexts(area)];
    assert.equal(found?.bytes.toString('latin1'), text);
    assert.deepEqual([found.vgName, found.vgId, found.seqno, found.offset], ['vg', 'I', 7, 3584]);
  });
});
