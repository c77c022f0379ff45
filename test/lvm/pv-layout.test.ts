/** The layout of new PVs is LVM2's own: its fixtures, its refusals, and the real pvcreate over random options. */
import assert from 'node:assert/strict';
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { gunzipSync } from 'node:zlib';
import * as fc from 'fast-check';
import { CommandError } from '../../src/lvm/edit/errors.ts';
import {
  DEFAULT_METADATA_SECTORS,
  lastArea,
  LAYOUT_DEFAULTS,
  type LayoutRequest,
  layOutPv,
  type PvLayout,
} from '../../src/lvm/pv-layout.ts';
import { findLabel, type Label, LABEL_SCAN_BYTES } from '../../src/ondisk/label.ts';
import { SHARED, withTemporaryFolder } from '../helpers/shared.ts';
import { withLvm2 } from './lvm2.ts';

const MIB = 2048;

const PLAIN: LayoutRequest = {
  device: 'dev',
  deviceSectors: 256 * MIB,
  sizeSectors: 0,
  alignmentSectors: 0,
  alignmentOffsetSectors: 0,
  topology: null,
  metadataSectors: DEFAULT_METADATA_SECTORS,
  metadataCopies: 1,
  bootloaderSectors: 0,
  restored: null,
  defaults: LAYOUT_DEFAULTS,
};

function placesOf(label: Label): PvLayout {
  const [bootloaderArea = null] = label.bootloaderAreas;
  return {
    sizeSectors: label.deviceSizeBytes / 512,
    peStartSectors: (label.dataAreas[0]?.offset ?? 0) / 512,
    metadataAreas: label.metadataAreas,
    bootloaderArea,
  };
}

function refusal(request: Partial<LayoutRequest>): readonly string[] {
  try {
    layOutPv({ ...PLAIN, ...request });
  } catch (error) {
    if (error instanceof CommandError) return error.lines;
    throw error;
  }
  return assert.fail('the layout was not refused');
}

describe('fixtures made by LVM2', () => {
  const fixtures: readonly (readonly [string, Partial<LayoutRequest>])[] = [
    ['pv0', { metadataCopies: 2 }],
    ['pv1', { metadataCopies: 0 }],
    ['pv2', { bootloaderSectors: 3 * MIB }],
    ['pv3', { metadataSectors: 4 * MIB, alignmentSectors: 8 * MIB, alignmentOffsetSectors: 7 }],
    ['pv4', {}],
    ['pv5', { sizeSectors: 100 * MIB }],
  ];
  for (const [name, request] of fixtures) {
    test(name, async () => {
      const packed = await readFile(join(SHARED, 'samples', 'lvm2', `11-${name}-first2M.bin.gz`));
      const label = findLabel(gunzipSync(packed), name);
      assert(label !== null);
      assert.deepEqual(layOutPv({ ...PLAIN, ...request }), placesOf(label));
    });
  }
});

describe('refusals', () => {
  test('what does not fit is refused in LVM2 words', () => {
    assert.deepEqual(refusal({ sizeSectors: 4095 }), ['dev: Size must exceed minimum of 4096 sectors.']);
    assert.deepEqual(refusal({ deviceSectors: MIB * 4, alignmentSectors: 5 * MIB }), [
      'dev: Data alignment must not exceed device size.',
    ]);
    assert.match(refusal({ alignmentSectors: 8, alignmentOffsetSectors: 9 })[0] ?? '', /pe_align \(8 sectors\)/);
    assert.match(refusal({ deviceSectors: 4 * MIB, bootloaderSectors: 4 * MIB })[0] ?? '', /Bootloader area/);
    assert.match(refusal({ metadataSectors: 8, alignmentSectors: 8 })[0] ?? '', /^Metadata area size too small/);
  });

  test('restored extents stay where they were', () => {
    const restored = {
      peStartSectors: 4096,
      extentSizeSectors: 8192,
      extentCount: 31,
      baStartSectors: 0,
      baSizeSectors: 0,
    };
    const layout = layOutPv({ ...PLAIN, metadataSectors: 4096, metadataCopies: 2, restored });
    assert.equal(layout.peStartSectors, 4096);
    const [first, last] = layout.metadataAreas;
    assert.deepEqual(first, { offset: 4096, size: 4096 * 512 - 4096 });
    assert((last?.offset ?? 0) >= (4096 + 31 * 8192) * 512);
    assert.match(refusal({ restored: { ...restored, extentCount: 64 } })[0] ?? '', /end beyond end of device/);
  });

  test('the area at the end follows the size', () => {
    const area = { device: 'dev', wantedBytes: 1 << 20, alignmentSectors: 0, limitSectors: MIB };
    assert.deepEqual(lastArea({ ...area, sizeSectors: 9 * MIB }), { offset: 8 << 20, size: 1 << 20 });
    assert.throws(() => lastArea({ ...area, sizeSectors: MIB }), CommandError);
  });
});

interface Options {
  readonly deviceMib: number;
  readonly sizeKib: number | null;
  readonly alignmentKib: number | null;
  readonly offsetSectors: number | null;
  readonly metadataKib: number | null;
  readonly copies: 0 | 1 | 2;
  readonly bootloaderKib: number | null;
}

const OPTIONS: fc.Arbitrary<Options> = fc.record({
  deviceMib: fc.constantFrom(2, 3, 9, 64, 257),
  sizeKib: fc.option(fc.integer({ min: 2048, max: 40_000 }), { freq: 1 }),
  alignmentKib: fc.option(fc.constantFrom(1, 4, 64, 100, 512, 1024, 1536, 4096, 9000)),
  offsetSectors: fc.option(fc.integer({ min: 1, max: 3000 }), { freq: 1 }),
  metadataKib: fc.option(fc.oneof(fc.constantFrom(16, 32, 128, 1020), fc.integer({ min: 1, max: 20_000 }))),
  copies: fc.constantFrom(0, 1, 2),
  bootloaderKib: fc.option(fc.integer({ min: 1, max: 8000 }), { freq: 1 }),
});

function argumentsOf(options: Options): readonly string[] {
  const given: readonly (readonly [string, string | null])[] = [
    ['--setphysicalvolumesize', sized(options.sizeKib, 'k')],
    ['--dataalignment', sized(options.alignmentKib, 'k')],
    ['--dataalignmentoffset', sized(options.offsetSectors, 's')],
    ['--metadatasize', sized(options.metadataKib, 'k')],
    ['--pvmetadatacopies', String(options.copies)],
    ['--bootloaderareasize', sized(options.bootloaderKib, 'k')],
  ];
  return given.flatMap(([option, value]) => (value === null ? [] : [option, value]));
}

function sized(value: number | null, unit: string): string | null {
  return value === null ? null : `${value}${unit}`;
}

function ours(options: Options, topology: LayoutRequest['topology']): PvLayout | null {
  try {
    return layOutPv({
      ...PLAIN,
      deviceSectors: options.deviceMib * MIB,
      sizeSectors: (options.sizeKib ?? 0) * 2,
      alignmentSectors: (options.alignmentKib ?? 0) * 2,
      alignmentOffsetSectors: options.offsetSectors ?? 0,
      metadataSectors: options.metadataKib === null ? DEFAULT_METADATA_SECTORS : options.metadataKib * 2,
      metadataCopies: options.copies,
      bootloaderSectors: (options.bootloaderKib ?? 0) * 2,
      topology,
    });
  } catch (error) {
    if (error instanceof CommandError) return null;
    throw error;
  }
}

describe('the real pvcreate', () => {
  test('lays out every mix of options as we do, and refuses the same ones', async () => {
    await withTemporaryFolder(async (folder) => {
      const sizes = [2, 3, 9, 64, 257];
      const files = sizes.map((mib) => join(folder, `${mib}.img`));
      for (const [index, path] of files.entries()) {
        const file = await open(path, 'w');
        await file.truncate((sizes[index] ?? 0) * MIB * 512);
        await file.close();
      }
      await withLvm2(files, async (lvm) => {
        await fc.assert(
          fc.asyncProperty(OPTIONS, async (options) => {
            const index = sizes.indexOf(options.deviceMib);
            const args = ['-y', ...argumentsOf(options), lvm.devices[index] ?? ''];
            // A pvcreate that fails may leave a damaged PV behind, which fails the next one.
            await zeroHead(files[index] ?? '');
            const { status, stderr } = await lvm.run('pvcreate', ...args);
            const theirs = status === 0 ? placesOf(await labelOf(files[index] ?? '')) : null;
            assert.deepEqual(ours(options, null), theirs, stderr);
          }),
          { numRuns: 30 },
        );
      });
    });
  });
});

async function zeroHead(path: string): Promise<void> {
  const file = await open(path, 'r+');
  await file.write(Buffer.alloc(8192), 0, 8192, 0);
  await file.close();
}

async function labelOf(path: string): Promise<Label> {
  const file = await open(path);
  try {
    const first = Buffer.alloc(LABEL_SCAN_BYTES);
    await file.read(first, 0, first.length, 0);
    const label = findLabel(first, path);
    assert(label !== null);
    return label;
  } finally {
    await file.close();
  }
}
