/**
 * What LVs hold, through every change: each extent of each LV that lies on a PV bears a mark of its own, and as long as the LV
 * has that extent, wherever it is then (pvmove, vgsplit), the mark is there.
 */
import assert from 'node:assert/strict';
import { type FileHandle, open } from 'node:fs/promises';
import type { Scan, VolumeGroup } from '../../src/lvm/model.ts';

const SECTOR_BYTES = 512;
/** After the head of an LV, which lvcreate wipes. */
const MARK_BYTES = 64;

interface Place {
  readonly device: string;
  readonly offset: number;
}

export class Contents {
  #places = new Map<string, Place>();

  /** Checks the marks of extents that were there before, and makes those of new ones. */
  async follow(scan: Scan): Promise<void> {
    const places = new Map(scan.volumeGroups.flatMap((group) => placesOf(group)));
    const files = new Map<string, FileHandle>();
    try {
      for (const device of new Set([...places.values()].map((place) => place.device))) {
        files.set(device, await open(device, 'r+'));
      }
      for (const [mark, { device, offset }] of places) {
        const file = files.get(device);
        assert(file !== undefined);
        const expected = Buffer.alloc(MARK_BYTES, `${mark} `);
        if (this.#places.has(mark)) {
          const { buffer } = await file.read(Buffer.alloc(MARK_BYTES), 0, MARK_BYTES, offset);
          assert.equal(buffer.toString('latin1'), expected.toString('latin1'), `byte ${offset} of ${device}`);
        } else {
          await file.write(expected, 0, MARK_BYTES, offset);
        }
      }
      for (const file of files.values()) await file.sync();
    } finally {
      for (const file of files.values()) await file.close();
    }
    this.#places = places;
  }
}

/** Every physical extent in use, by a mark: LV uuid and a number that is one extent's as long as the LV has it. */
function placesOf({ vg, pvs }: VolumeGroup): readonly (readonly [string, Place])[] {
  const byLabel = new Map(pvs.map(({ text, found }) => [text?.label, { text, device: found?.device.path }]));
  return vg.logicalVolumes.flatMap((lv) =>
    lv.segments.flatMap((segment) => {
      if (segment.type !== 'striped') return [];
      const rows = segment.extentCount / segment.areas.length;
      return segment.areas.flatMap(({ name, extent }, column) => {
        const { text, device } = byLabel.get(name) ?? {};
        if (text === undefined || device === undefined) return [];
        return Array.from({ length: rows }, (_, row): readonly [string, Place] => [
          `${lv.id}/${segment.startExtent + row * segment.areas.length + column}/${vg.extentSizeSectors}`,
          { device, offset: (text.peStartSectors + (extent + row) * vg.extentSizeSectors) * SECTOR_BYTES },
        ]);
      });
    }),
  );
}
