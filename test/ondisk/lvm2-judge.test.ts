/**
 * The real LVM2 reads what our encoders and printers write, and agrees with our reader about which texts are good.
 * Needs root (loop devices) and lvm2.
 */
import assert from 'node:assert/strict';
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { FormatError } from '../../src/ondisk/errors.ts';
import { encodeLabel, PV_EXT_USED, SECTOR_BYTES } from '../../src/ondisk/label.ts';
import { EMPTY_LOCN, encodeMdaHeader, type MdaHeader, textLocn, textWrites } from '../../src/ondisk/mda.ts';
import type { VolumeGroupText } from '../../src/ondisk/metadata.ts';
import { encodeText } from '../../src/ondisk/text-bytes.ts';
import { metadataTextBytes, parseMetadataText } from '../../src/ondisk/vg-text.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { type Lvm2, withLvm2 } from '../lvm/lvm2.ts';
import { diskTexts } from './samples.ts';

const MDA_START = 4096;
const MDA_SIZE = 1024 * 1024 - MDA_START;
const DEFAULT_PV_SECTORS = 524288;
/** A text here wraps round the area's end. */
const NEAR_THE_END = MDA_SIZE - 2 * SECTOR_BYTES;

/** Writes the label and nothing else of each PV of `vg`; the image files' paths. */
async function makePvs(vg: VolumeGroupText, folder: string): Promise<readonly string[]> {
  const paths: string[] = [];
  for (const pv of vg.physicalVolumes) {
    const path = join(folder, `${pv.label}.img`);
    const sizeBytes = (pv.devSizeSectors ?? DEFAULT_PV_SECTORS) * SECTOR_BYTES;
    const label = encodeLabel({
      sector: 1,
      uuid: pv.id,
      deviceSizeBytes: sizeBytes,
      dataAreas: [{ offset: pv.peStartSectors * SECTOR_BYTES, size: 0 }],
      metadataAreas: [{ offset: MDA_START, size: MDA_SIZE }],
      extensionVersion: 2,
      extensionFlags: PV_EXT_USED,
      bootloaderAreas: [],
    });
    const file = await open(path, 'w');
    await file.truncate(sizeBytes);
    await file.write(label, 0, label.length, SECTOR_BYTES);
    await file.close();
    paths.push(path);
  }
  return paths;
}

/** Commits `text` to every PV, at `offset` of its metadata area. */
async function commit(paths: readonly string[], text: Buffer, offset: number): Promise<void> {
  const mda: MdaHeader = { start: MDA_START, size: MDA_SIZE, slots: [textLocn(offset, text), EMPTY_LOCN] };
  const writes = [{ offset: MDA_START, bytes: encodeMdaHeader(mda) }, ...textWrites(mda, offset, text)];
  for (const path of paths) {
    const file = await open(path, 'r+');
    for (const write of writes) await file.write(write.bytes, 0, write.bytes.length, write.offset);
    await file.close();
  }
}

/** Without what LVM2 states anew when it writes: where it found the devices. */
function withoutHints(vg: VolumeGroupText): VolumeGroupText {
  const physicalVolumes = vg.physicalVolumes.map((pv) => Object.assign({}, pv, { device: '' }));
  return Object.assign({}, vg, { physicalVolumes });
}

async function withPvs(
  text: string,
  use: (lvm: Lvm2, paths: readonly string[], folder: string) => Promise<void>,
): Promise<void> {
  const { vg } = parseMetadataText(text, { device: 'sample', offset: 0 });
  await withTemporaryFolder(async (folder) => {
    const paths = await makePvs(vg, folder);
    await withLvm2(paths, (lvm) => use(lvm, paths, folder));
  });
}

function sample(name: string): string {
  const found = diskTexts().find((candidate) => candidate.name === `${name}.raw`);
  assert.ok(found, name);
  return found.text;
}

describe('LVM2 reads the same volume group from what we write', () => {
  const names = [
    '01-linear',
    '04-raid',
    '05b-snapshot-merging',
    '06e-thin-final',
    '07c-cachevol',
    '08-writecache',
    '12-history',
  ];
  for (const name of names) {
    test(name, async () => {
      const parsed = parseMetadataText(sample(name), { device: name, offset: 0 });
      await withPvs(sample(name), async (lvm, paths, folder) => {
        await commit(paths, metadataTextBytes(parsed), NEAR_THE_END);
        const check = await lvm.run('vgck', parsed.vg.name);
        assert.equal(check.status, 0, check.stderr);
        const backup = join(folder, 'backup');
        const saved = await lvm.run('vgcfgbackup', '-f', backup, parsed.vg.name);
        assert.equal(saved.status, 0, saved.stderr);
        const { vg } = parseMetadataText(await readFile(backup), { device: backup, offset: 0 });
        assert.deepEqual(withoutHints(vg), withoutHints(parsed.vg));
      });
    });
  }
});

/** Edits of a good text: what is replaced, by what, and whether LVM2 still reads it. */
const EDITS: readonly (readonly [string, string, boolean])[] = [
  ['max_lv = 0', 'max_lv = 0', true],
  ['["READ", "WRITE", "VISIBLE"]', '["READ" "WRITE" "VISIBLE"]', true],
  ['extent_size = 2048', 'extent_size = 04000', true],
  ['extent_size = 2048', 'extent_size = +2048', true],
  ['extent_size = 2048', 'extent_size = 0x800', false],
  ['format = "lvm2"', "format = 'lvm2'", true],
  ['format = "lvm2"', 'format = lvm2', true],
  ['format = "lvm2"', 'format = "lvm9"', false],
  ['flags = []', 'flags = ["FUTURE"]', true],
  ['"RESIZEABLE"', '"FUTURE"', false],
  ['["ALLOCATABLE"]', '"ALLOCATABLE"', true],
  ['max_lv = 0', 'max_lv = 0 max_lv = 5', true],
  ['max_lv = 0', 'max_lv = 0 seqno = "x"', true],
  ['max_lv = 0', 'max_lv = 0 a/b = 1', true],
  ['max_lv = 0', 'max_lv = 0 hash = 9007199254740993', true],
  ['max_lv = 0', 'max_lv = 0 allocation_policy = "magic"', true],
  ['type = "striped"', 'type = "linear"', true],
  ['type = "striped"', 'type = "zero"', true],
  ['type = "striped"', 'type = "future"', true],
  ['stripe_size = 128', 'stripe_size = "128"', false],
  ['stripe_count = 2', 'stripe_count = 3', false],
  ['"pv0", 13', '"pv0", 1', false],
  ['"pv0", 13', '"pv0", 254', false],
  ['"pv0", 13', '"pv9", 13', false],
  ['start_extent = 16', 'start_extent = 17', false],
  ['segment_count = 2', 'segment_count = 3', false],
  ['segment1 {', 'anything {', true],
  ['s4 {', 's2 {', false],
  ['creation_time = 1', 'creation_time = 99999999999999999999', true],
  ['vgstr {', '"vg str" {', false],
];

test('LVM2 and we agree about which texts are good', async () => {
  const good = sample('02-striped');
  const { vg } = parseMetadataText(good, { device: 'sample', offset: 0 });
  await withPvs(good, async (lvm, paths) => {
    for (const [from, to, readable] of EDITS) {
      assert.ok(good.includes(from), from);
      const text = good.replace(from, to);
      assert.equal(isReadable(text), readable, `ours: ${from} -> ${to}`);
      await commit(paths, Buffer.concat([encodeText(text), Buffer.of(0)]), 512);
      const { status, stderr } = await lvm.run('vgs', vg.name);
      assert.equal(status === 0, readable, `LVM2: ${from} -> ${to}\n${stderr}`);
    }
  });
});

function isReadable(text: string): boolean {
  try {
    parseMetadataText(text, { device: 'edited', offset: 0 });
    return true;
  } catch (error) {
    assert.ok(error instanceof FormatError, String(error));
    return false;
  }
}
