/**
 * The demo's volume group in sparse image files, made by the way of every command: pvcreate, vgcreate and lvcreate as plans that
 * are validated and committed (lvm/command.ts).
 *
 *     demo-pv0  │notes│data ················│big ················│stripes │
 *     demo-pv1  │big (goes on) ······│                           │stripes │
 *     demo-pv2  │                                                │stripes │
 *
 * Invariants
 *  - The folder appears whole by one rename, so an interrupted run leaves nothing that looks like a demo. The metadata names
 *    the devices by where they are then.
 *  - A folder that exists is never written to: what its volumes hold is the user's.
 */
import { mkdir, open, readdir, rename, rm } from 'node:fs/promises';
import { hostname, machine, release, type, version } from 'node:os';
import { basename, join } from 'node:path';
import type { OpenedDevice } from '../block/device.ts';
import { openBlockDevice } from '../block/open.ts';
import { PLAIN_HOST } from '../lvm/access.ts';
import { findPvByPath } from '../lvm/allocate/pv-list.ts';
import { DEFAULT_ALLOCATION } from '../lvm/allocate/request.ts';
import type { ChangeContext } from '../lvm/change-context.ts';
import type { Changes } from '../lvm/changes.ts';
import { withChanges } from '../lvm/command.ts';
import { describeDevice } from '../lvm/devices.ts';
import { createLv, type LvCreateRequest } from '../lvm/edit/lv-create.ts';
import { Notes } from '../lvm/edit/lv-notes.ts';
import { createPvPlan, newPvWrite } from '../lvm/edit/pv-create.ts';
import { createVgPlan } from '../lvm/edit/vg-create.ts';
import { EFFECTS } from '../lvm/effects.ts';
import { openExclusively } from '../lvm/open.ts';
import { DEFAULT_METADATA_SECTORS, LAYOUT_DEFAULTS } from '../lvm/pv-layout.ts';
import { newUuid } from '../ondisk/uuid.ts';
import { DaemonError, reasonOf } from './errors.ts';

const SECTOR_BYTES = 512;
const PV_BYTES = 256 * 2 ** 20;
const PV_COUNT = 3;
const EXTENT_SECTORS = 8192;
const STRIPE_SECTORS = 128;

export const DEMO_VG = 'demo';

/** What the read-only volume holds, so that there is something to read at once. */
export const DEMO_NOTES: string = `This is the logical volume ${DEMO_VG}/notes, read-only, on the first physical volume.

It is a real LVM2 volume: attach the image files to loop devices and Linux shows the same volume group.
  ${DEMO_VG}/data     linear, empty
  ${DEMO_VG}/big      linear, spans two physical volumes
  ${DEMO_VG}/stripes  striped over three physical volumes
`;

/** A volume of so many extents on those of the PVs (by number) that are named, as lvcreate is told. */
interface DemoVolume {
  readonly name: string;
  readonly extents: number;
  readonly places: readonly (readonly [pv: number, extents: string])[];
  readonly stripes?: number;
  readonly writable?: boolean;
}

const VOLUMES: readonly DemoVolume[] = [
  { name: 'notes', extents: 1, places: [[0, '0']], writable: false },
  { name: 'data', extents: 16, places: [[0, '1-16']] },
  {
    name: 'big',
    extents: 50,
    places: [
      [0, '17-46'],
      [1, '0-19'],
    ],
  },
  {
    name: 'stripes',
    extents: 48,
    stripes: 3,
    places: [
      [0, '47-62'],
      [1, '47-62'],
      [2, '47-62'],
    ],
  },
];

/** The paths of the demo's images in `folder`, made if the folder does not exist. Throws a DaemonError DEMO_FAILED. */
export async function ensureDemo(
  folder: string,
): Promise<{ readonly created: boolean; readonly images: readonly string[] }> {
  try {
    const found = await imagesIn(folder);
    if (found.length > 0) return { created: false, images: found };
    const partial = `${folder}.partial`;
    await rm(partial, { recursive: true, force: true });
    await mkdir(partial, { recursive: true });
    await makeImages(partial, folder);
    await rename(partial, folder);
    return { created: true, images: await imagesIn(folder) };
  } catch (error) {
    throw new DaemonError({ code: 'DEMO_FAILED', path: folder, reason: reasonOf(error) }, { cause: error });
  }
}

async function imagesIn(folder: string): Promise<readonly string[]> {
  try {
    const names = await readdir(folder);
    return names
      .filter((name) => name.endsWith('.img'))
      .sort()
      .map((name) => join(folder, name));
  } catch (error) {
    if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return [];
    throw error;
  }
}

/** Makes the images in `partial`, which is going to be called `folder`. */
async function makeImages(partial: string, folder: string): Promise<void> {
  const names = Array.from({ length: PV_COUNT }, (_, index) => `demo-pv${index}.img`);
  for (const name of names) {
    const file = await open(join(partial, name), 'wx');
    try {
      await file.truncate(PV_BYTES);
    } finally {
      await file.close();
    }
  }
  const paths = names.map((name) => join(folder, name));
  await withChanges(demoContext(paths, partial), {}, async (changes) => {
    await makeVolumeGroup(changes);
    for (const volume of VOLUMES) await makeVolume(changes, paths, volume);
    await writeNotes(changes, partial);
  });
}

/** Commands without a user: nobody else knows of the images, so nothing is locked, asked, told or kept a backup of. */
function demoContext(paths: readonly string[], partial: string): ChangeContext {
  const here = (path: string): string => join(partial, basename(path));
  const named = (device: OpenedDevice): string => paths.find((path) => here(path) === device.name) ?? device.name;
  return {
    devices: paths,
    scan: {
      open: (path) => openBlockDevice(here(path), { readOnly: true }),
      describe: async (device) => ({ ...(await describeDevice(device)), path: named(device) }),
    },
    open: (path) => openExclusively(here(path)),
    host: PLAIN_HOST,
    locking: null,
    writer: {
      commandLine: 'the Orion LVM demo',
      generator: 'Orion LVM',
      hostName: hostname(),
      uname: [type(), hostname(), release(), version(), machine()].join(' '),
    },
    backup: { archive: null, backup: null },
    hintsDirectory: null,
    effects: EFFECTS,
    test: false,
    yes: 0,
    force: 0,
    prompt: () => Promise.resolve(false),
    out: () => undefined,
    err: () => undefined,
    now: () => Math.floor(Date.now() / 1000),
  };
}

async function makeVolumeGroup(changes: Changes): Promise<void> {
  for (const device of changes.scan.devices) {
    const pv = { name: device.path, device, topology: null, uuid: newUuid() };
    const write = newPvWrite(pv, {
      zero: true,
      labelSector: 1,
      metadataIgnore: false,
      metadataSectors: DEFAULT_METADATA_SECTORS,
      metadataCopies: 1,
      alignmentSectors: 0,
      alignmentOffsetSectors: 0,
      bootloaderSectors: 0,
      sizeSectors: 0,
      restored: null,
      defaults: LAYOUT_DEFAULTS,
    });
    await changes.apply(createPvPlan(device.path, write));
  }
  const { devices, orphans } = changes.scan;
  const joining = devices.flatMap(({ path }) =>
    orphans.flatMap(({ found }) => (found?.device.path === path ? found : [])),
  );
  const group = {
    name: DEMO_VG,
    id: newUuid(),
    extentSizeSectors: EXTENT_SECTORS,
    maxLv: 0,
    maxPv: 0,
    allocationPolicy: 'normal',
    tags: [],
    metadataCopies: 0,
    systemId: null,
    noAutoactivation: false,
  } as const;
  await changes.apply(createVgPlan(group, joining));
}

async function makeVolume(changes: Changes, paths: readonly string[], volume: DemoVolume): Promise<void> {
  const { name, extents, places, stripes = 1, writable = true } = volume;
  const request: LvCreateRequest = {
    name,
    type: 'striped',
    size: { kind: 'extents', count: extents },
    stripes,
    stripeSizeSectors: stripes === 1 ? 0 : STRIPE_SECTORS,
    policy: 'inherit',
    pvs: places.map(([pv, range]) => `${paths[pv]}:${range}`),
    findPv: findPvByPath,
    writable,
    readOnlyVolumes: null,
    volumeList: null,
    hostTags: [],
    readAhead: null,
    device: null,
    tags: [],
    skipActivation: false,
    noAutoActivate: false,
    // A new sparse file is all zeroes.
    zero: false,
    wipeSignatures: false,
    now: changes.context.now(),
    hostName: hostname(),
    settings: DEFAULT_ALLOCATION,
  };
  const group = await changes.volumeGroup({ vgName: DEMO_VG });
  await changes.apply(createLv(group, request, new Notes(String)).plan);
}

/** Puts the text where the first extent of `notes` is. */
async function writeNotes(changes: Changes, partial: string): Promise<void> {
  const { vg, pvs } = await changes.volumeGroup({ vgName: DEMO_VG });
  const [segment] = vg.logicalVolumes.find(({ name }) => name === 'notes')?.segments ?? [];
  const area = segment?.type === 'striped' ? segment.areas[0] : undefined;
  const pv = pvs.find(({ text }) => text !== undefined && text.label === area?.name);
  if (area === undefined || pv?.text === undefined || pv.found === null) throw new TypeError('notes lies nowhere');
  const file = await open(join(partial, basename(pv.found.device.path)), 'r+');
  try {
    const start = (pv.text.peStartSectors + area.extent * vg.extentSizeSectors) * SECTOR_BYTES;
    await file.write(DEMO_NOTES, start);
    await file.sync();
  } finally {
    await file.close();
  }
}
