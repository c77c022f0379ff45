/** Image files with volume groups as small as tests need them: one physical volume, extents of 1 MiB. */
import { open } from 'node:fs/promises';
import { encodeLabel } from '../../src/ondisk/label.ts';
import { EMPTY_LOCN, encodeMdaHeader, textLocn } from '../../src/ondisk/mda.ts';
import type { LogicalVolumeText, MetadataText } from '../../src/ondisk/metadata.ts';
import { newUuid } from '../../src/ondisk/uuid.ts';
import { metadataTextBytes } from '../../src/ondisk/vg-text.ts';

export const EXTENT: number = 2 ** 20;
/** Where extent 0 is on the image. */
export const DATA_START: number = 2 ** 20;
const MDA = { offset: 4096, size: DATA_START - 4096 };
const EXTENTS = 31;

export interface TestVolume {
  readonly name: string;
  readonly extent: number;
  readonly extents: number;
  readonly readOnly?: boolean;
  readonly tags?: readonly string[];
  /** The name that it was first written with, where that was another: its uuid stays. */
  readonly formerly?: string;
}

/** A volume group in one image file; uuids stay the same when its metadata is written again. */
export class TestGroup {
  readonly path: string;
  readonly name: string;
  readonly #vgId = newUuid();
  readonly #pvId = newUuid();
  readonly #lvIds = new Map<string, string>();
  #seqno = 0;

  constructor(path: string, name: string) {
    this.path = path;
    this.name = name;
  }

  /** Makes the image, or writes its metadata again with these volumes. */
  async write(volumes: readonly TestVolume[]): Promise<this> {
    this.#seqno++;
    const text = metadataTextBytes(this.#text(volumes));
    const label = encodeLabel({
      sector: 1,
      uuid: this.#pvId,
      deviceSizeBytes: DATA_START + EXTENTS * EXTENT,
      dataAreas: [{ offset: DATA_START, size: 0 }],
      metadataAreas: [MDA],
      extensionVersion: 2,
      extensionFlags: 1,
      bootloaderAreas: [],
    });
    // Every text goes to a place of its own, so that the committed one is never overwritten.
    const offset = 512 + 8192 * (this.#seqno - 1);
    const header = { start: MDA.offset, size: MDA.size, slots: [textLocn(offset, text), EMPTY_LOCN] as const };
    const file = await open(this.path, this.#seqno === 1 ? 'wx' : 'r+');
    try {
      await file.truncate(DATA_START + EXTENTS * EXTENT);
      await file.write(label, 0, label.length, 512);
      await file.write(text, 0, text.length, MDA.offset + offset);
      await file.write(encodeMdaHeader(header), 0, 512, MDA.offset);
    } finally {
      await file.close();
    }
    return this;
  }

  /** The bytes of an image where a volume is, straight from the file. */
  async read(volume: TestVolume, offset: number, length: number): Promise<Buffer> {
    const file = await open(this.path, 'r');
    try {
      const buffer = Buffer.alloc(length);
      await file.read(buffer, 0, length, DATA_START + volume.extent * EXTENT + offset);
      return buffer;
    } finally {
      await file.close();
    }
  }

  #text(volumes: readonly TestVolume[]): MetadataText {
    return {
      header: { contents: 'Text Format Volume Group', version: 1, description: 'test' },
      vg: {
        name: this.name,
        id: this.#vgId,
        seqno: this.#seqno,
        format: 'lvm2',
        status: ['RESIZEABLE', 'READ', 'WRITE'],
        flags: [],
        tags: [],
        extentSizeSectors: EXTENT / 512,
        maxLv: 0,
        maxPv: 0,
        metadataCopies: 0,
        physicalVolumes: [
          {
            label: 'pv0',
            id: this.#pvId,
            device: this.path,
            status: ['ALLOCATABLE'],
            flags: [],
            tags: [],
            devSizeSectors: (DATA_START + EXTENTS * EXTENT) / 512,
            peStartSectors: DATA_START / 512,
            peCount: EXTENTS,
            extra: [],
          },
        ],
        logicalVolumes: volumes.map((volume) => this.#volume(volume)),
        historicalLogicalVolumes: [],
        extra: [],
      },
      extra: [],
    };
  }

  #volume({ name, extent, extents, readOnly, tags, formerly = name }: TestVolume): LogicalVolumeText {
    const id = this.#lvIds.get(formerly) ?? newUuid();
    this.#lvIds.set(formerly, id);
    return {
      name,
      id,
      status: readOnly === true ? ['READ', 'VISIBLE'] : ['READ', 'WRITE', 'VISIBLE'],
      flags: [],
      tags: tags ?? [],
      segments: [
        {
          type: 'striped',
          startExtent: 0,
          extentCount: extents,
          areas: [{ name: 'pv0', extent }],
          tags: [],
          typeFlags: [],
          extra: [],
        },
      ],
      extra: [],
    };
  }
}
