/**
 * Notices when the metadata of a volume group was written by somebody else: at every scan, sequence number and checksum of each VG
 * are compared with those of the scan before.
 *
 * Invariants
 *  - A change is told once, by the scan that finds it.
 *  - What our own commands write is announced (`expect`) before it is on disk, by VG and sequence number.
 *  - What is seen first is compared with what the audit log has recorded, if it has: changes while nobody watched are told too.
 *  - A VG that is seen for the first time, or not seen (its devices are gone), is no change; one that comes back changed is.
 */
import { createHash } from 'node:crypto';
import type { VolumeGroup } from '../lvm/model.ts';

/** What tells two versions of a VG's metadata apart. */
export interface MetadataVersion {
  readonly seqno: number;
  /** The first 16 hex digits of the text's SHA-256. */
  readonly checksum: string;
}

export interface MetadataChange {
  readonly name: string;
  readonly uuid: string;
  readonly expected: MetadataVersion;
  readonly found: MetadataVersion;
}

/** A VG as a scan found it. */
export interface SeenGroup {
  readonly vg: Pick<VolumeGroup['vg'], 'id' | 'name' | 'seqno'>;
  readonly rawText: Buffer;
}

export class MetadataWatch {
  readonly #known = new Map<string, MetadataVersion>();
  readonly #announced = new Map<string, Set<number>>();
  readonly #recorded: Map<string, number>;

  /** `recorded`: sequence numbers by VG uuid, as the audit log knows them. */
  constructor(recorded: ReadonlyMap<string, number> = new Map()) {
    this.#recorded = new Map(recorded);
  }

  /** A command of ours is about to write these VGs; `seqnoAfter` null: it removes it. */
  expect(groups: readonly { readonly id: string; readonly seqnoAfter: number | null }[]): void {
    for (const { id, seqnoAfter } of groups) {
      if (seqnoAfter === null) continue;
      const seqnos = this.#announced.get(id) ?? new Set();
      this.#announced.set(id, seqnos.add(seqnoAfter));
    }
  }

  /** Compares with the scan before. */
  compare(groups: readonly SeenGroup[]): readonly MetadataChange[] {
    return groups.flatMap(({ vg, rawText }) => {
      const found = { seqno: vg.seqno, checksum: checksumOf(rawText) };
      const expected = this.#known.get(vg.id);
      this.#known.set(vg.id, found);
      if (expected === undefined) return this.#comparedWithRecord(vg, found);
      if (expected.seqno === found.seqno && expected.checksum === found.checksum) return [];
      const announced = this.#announced.get(vg.id);
      if (announced?.has(found.seqno) === true) {
        for (const seqno of announced) if (seqno <= found.seqno) announced.delete(seqno);
        return [];
      }
      return [{ name: vg.name, uuid: vg.id, expected, found }];
    });
  }

  #comparedWithRecord({ id, name }: SeenGroup['vg'], found: MetadataVersion): readonly MetadataChange[] {
    const seqno = this.#recorded.get(id);
    this.#recorded.delete(id);
    if (seqno === undefined || seqno === found.seqno) return [];
    return [{ name, uuid: id, expected: { seqno, checksum: NO_CHECKSUM }, found }];
  }
}

/** In the place of a checksum: only the sequence number was recorded. */
export const NO_CHECKSUM = 'not recorded';

function checksumOf(text: Buffer): string {
  return createHash('sha256').update(text).digest('hex').slice(0, 16);
}
