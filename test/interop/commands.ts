/**
 * Random commands that make sense for what is there: most succeed, and some are refused (no room, a name in use, an LV type
 * that can't do that). The same command line is good for our commands and for the real ones.
 */
import type { PhysicalVolume, Scan, VolumeGroup } from '../../src/lvm/model.ts';
import type { Dice } from './dice.ts';

export type CommandLine = readonly [command: string, ...args: readonly string[]];

/** What commands can be about. */
export interface World {
  readonly scan: Scan;
  /** Paths of all devices. */
  readonly devices: readonly string[];
  /** Commands that there are. */
  readonly known: ReadonlySet<string>;
  /** A folder for backup files. */
  readonly folder: string;
}

type Maker = (dice: Dice, world: World) => CommandLine | null;

const VG_NAMES = ['vg', 'vg1', 'data.2', 'a+b_c-d', 'Zulu'];
const LV_NAMES = ['a', 'b', 'home', 'lv-with-dash', 'x.y', 'L_1', 'swap+1', 'r00t'];
const TAGS = ['red', 'fast/disk', 'a=b', 'x&y', 'old!', 'h#1'];
const POLICIES = ['normal', 'contiguous', 'cling', 'cling_by_tags', 'anywhere', 'inherit'];
const VG_POLICIES = POLICIES.slice(0, -1);
const READ_AHEADS = ['auto', 'none', '8', '256', '1024'];

function empty({ devices, scan }: World): readonly string[] {
  const taken = new Set([...scan.volumeGroups.flatMap((group) => group.pvs), ...scan.orphans].flatMap(pathsOf));
  return devices.filter((path) => !taken.has(path));
}

function orphans({ scan }: World): readonly string[] {
  return scan.orphans.flatMap(pathsOf);
}

function pathsOf({ found }: PhysicalVolume): readonly string[] {
  return found === null ? [] : [found.device.path];
}

function group(dice: Dice, { scan }: World): VolumeGroup | null {
  return scan.volumeGroups.length === 0 ? null : dice.pick(scan.volumeGroups);
}

/** "VG/LV" of a visible LV. */
function volume(dice: Dice, world: World): string | null {
  const names = world.scan.volumeGroups.flatMap(({ vg }) =>
    vg.logicalVolumes.filter(({ status }) => status.includes('VISIBLE')).map(({ name }) => `${vg.name}/${name}`),
  );
  return names.length === 0 ? null : dice.pick(names);
}

function vgName(dice: Dice, { scan }: World): string {
  const free = VG_NAMES.filter((name) => !scan.volumeGroups.some(({ vg }) => vg.name === name));
  return free.length === 0 || dice.chance(0.05) ? dice.pick(VG_NAMES) : dice.pick(free);
}

function layout(dice: Dice): readonly string[] {
  return [
    ...dice.maybe(0.4, '--pvmetadatacopies', dice.pick(['0', '1', '1', '2', '2'])),
    ...dice.maybe(0.3, '--metadatasize', dice.pick(['128k', '600k', '1m', '2m', '3500k'])),
    ...dice.maybe(0.25, '--dataalignment', dice.pick(['64k', '192k', '1m', '4m'])),
    ...dice.maybe(0.15, '--dataalignmentoffset', dice.pick(['512b', '7s', '32k'])),
    ...dice.maybe(0.15, '--labelsector', dice.pick(['0', '2', '3'])),
  ];
}

/** Some PVs of a VG, perhaps with ranges of extents or tags. */
function places(dice: Dice, { vg, pvs }: VolumeGroup): readonly string[] {
  if (dice.chance(0.6)) return [];
  const tags = pvs.flatMap(({ text }) => text?.tags ?? []);
  if (tags.length > 0 && dice.chance(0.3)) return [`@${dice.pick(tags)}`];
  return dice.some(pvs, dice.int(1, pvs.length)).flatMap((pv) => {
    const count = vg.physicalVolumes.find(({ id }) => id === pv.uuid)?.peCount ?? 0;
    const start = dice.int(0, Math.max(0, count - 1));
    const range = dice.chance(0.6) ? '' : `:${start}-${dice.int(start, Math.max(start, count - 1))}`;
    return pathsOf(pv).map((path) => `${path}${range}`);
  });
}

function size(dice: Dice): readonly string[] {
  return dice.pick([
    ['-l', String(dice.int(1, 12))],
    ['-L', `${dice.int(1, 24)}m`],
    ['-L', `${dice.int(1, 40) * 500}k`],
    ['-l', `${dice.int(1, 40)}%FREE`],
    ['-l', `${dice.int(1, 20)}%VG`],
    ['-l', `${dice.int(1, 20)}%PVS`],
  ]);
}

/** A change of size: a sign or none. */
function newSize(dice: Dice, signs: readonly string[]): readonly string[] {
  const [option = '', value = ''] = size(dice);
  return [option, `${dice.pick(signs)}${value}`];
}

function stripes(dice: Dice): readonly string[] {
  if (dice.chance(0.65)) return [];
  return ['-i', String(dice.int(2, 3)), ...dice.maybe(0.5, '-I', dice.pick(['4k', '16k', '64k', '512k']))];
}

const pvMakers: Record<string, Maker> = {
  pvcreate(dice, world) {
    const devices = dice.some(empty(world), dice.int(1, 2));
    if (devices.length === 0) return null;
    const ignored = dice.maybe(0.1, '--metadataignore', 'y', '--pvmetadatacopies', '1');
    const bootloader = dice.maybe(0.2, '--bootloaderareasize', dice.pick(['1m', '512k', '96k']));
    const sized = dice.maybe(0.15, '--setphysicalvolumesize', `${dice.int(24, 40)}m`);
    const rest = ignored.length > 0 ? [] : layout(dice);
    return ['pvcreate', ...ignored, ...rest, ...bootloader, ...sized, ...devices];
  },
  pvremove(dice, world) {
    const devices = dice.chance(0.1) ? world.devices : orphans(world);
    return devices.length === 0 ? null : ['pvremove', dice.pick(devices)];
  },
  pvchange(dice, world) {
    const path = dice.pick(world.devices);
    const change = dice.pick([
      ['-x', dice.pick(['y', 'n'])],
      ['-x', 'y'],
      ['--addtag', dice.pick(TAGS)],
      ['--deltag', dice.pick(TAGS)],
      ['--metadataignore', dice.pick(['y', 'n'])],
      ['-u'],
    ]);
    return ['pvchange', ...change, path];
  },
  pvresize(dice, world) {
    const change = dice.maybe(0.5, '--setphysicalvolumesize', `${dice.int(16, 46)}m`);
    return ['pvresize', ...change, dice.pick(world.devices)];
  },
};

const vgMakers: Record<string, Maker> = {
  vgcreate(dice, world) {
    const devices = dice.some([...empty(world), ...orphans(world)], dice.int(1, 3));
    if (devices.length === 0) return null;
    return [
      'vgcreate',
      ...dice.maybe(0.5, '-s', dice.pick(['1m', '2m', '128k', '512k', '384k', '4m'])),
      ...dice.maybe(0.1, '-l', String(dice.int(2, 9))),
      ...dice.maybe(0.1, '-p', String(dice.int(2, 5))),
      ...dice.maybe(0.2, '--alloc', dice.pick(VG_POLICIES)),
      ...dice.maybe(0.2, '--addtag', dice.pick(TAGS)),
      ...dice.maybe(0.2, '--vgmetadatacopies', dice.pick(['1', '2', 'all', 'unmanaged'])),
      ...dice.maybe(0.1, '--setautoactivation', 'n'),
      ...(dice.chance(0.3) ? layout(dice) : []),
      vgName(dice, world),
      ...devices,
    ];
  },
  vgextend(dice, world) {
    const vg = group(dice, world);
    const devices = dice.some([...empty(world), ...orphans(world)], dice.int(1, 2));
    if (vg === null || devices.length === 0) return null;
    return ['vgextend', ...(dice.chance(0.3) ? layout(dice) : []), vg.vg.name, ...devices];
  },
  vgreduce(dice, world) {
    const vg = group(dice, world);
    if (vg === null) return null;
    return dice.chance(0.1)
      ? ['vgreduce', '-a', vg.vg.name]
      : ['vgreduce', vg.vg.name, dice.pick(vg.pvs.flatMap(pathsOf))];
  },
  vgremove(dice, world) {
    const vg = group(dice, world);
    return vg === null ? null : ['vgremove', ...dice.maybe(0.3, '-f'), vg.vg.name];
  },
  vgrename(dice, world) {
    const vg = group(dice, world)?.vg;
    return vg === undefined ? null : ['vgrename', dice.chance(0.3) ? vg.id : vg.name, vgName(dice, world)];
  },
  vgchange(dice, world) {
    const vg = group(dice, world);
    if (vg === null) return null;
    const change = dice.pick([
      ['--addtag', dice.pick(TAGS)],
      ['--addtag', dice.pick(TAGS)],
      ['--deltag', dice.pick(TAGS)],
      ['-s', dice.pick(['1m', '2m', '4m', '256k', '128k'])],
      ['-l', String(dice.int(0, 12))],
      ['-p', String(dice.int(0, 6))],
      ['--alloc', dice.pick(POLICIES)],
      ['-u'],
      ['-x', 'n'],
      ['-x', 'y'],
      ['-x', 'y'],
      ['--vgmetadatacopies', dice.pick(['1', '2', 'all', 'unmanaged'])],
      ['--setautoactivation', dice.pick(['y', 'n'])],
    ]);
    return ['vgchange', ...change, vg.vg.name];
  },
  vgexport(dice, world) {
    const vg = group(dice, world);
    return vg === null ? null : ['vgexport', vg.vg.name];
  },
  vgimport(dice, { scan }) {
    const exported = scan.volumeGroups.filter(({ vg }) => vg.status.includes('EXPORTED'));
    return exported.length === 0 ? null : ['vgimport', dice.pick(exported).vg.name];
  },
  vgsplit(dice, world) {
    const vg = group(dice, world);
    if (vg === null) return null;
    const pvs = dice.some(vg.pvs.flatMap(pathsOf), dice.int(1, 2));
    const to = dice.chance(0.8) ? vgName(dice, world) : (group(dice, world)?.vg.name ?? '');
    const lv = dice.chance(0.3) ? volume(dice, world) : null;
    return lv === null ? ['vgsplit', vg.vg.name, to, ...pvs] : ['vgsplit', '-n', lv, vg.vg.name, to];
  },
  vgmerge(dice, world) {
    const [to, from] = dice.some(world.scan.volumeGroups, 2);
    return to === undefined || from === undefined ? null : ['vgmerge', to.vg.name, from.vg.name];
  },
  vgck(dice, world) {
    const vg = group(dice, world);
    return vg === null ? null : ['vgck', '--updatemetadata', vg.vg.name];
  },
  vgcfgrestore(dice, world) {
    const vg = group(dice, world);
    return vg === null ? null : ['vgcfgrestore', vg.vg.name];
  },
};

const lvMakers: Record<string, Maker> = {
  lvcreate(dice, world) {
    const vg = group(dice, world);
    if (vg === null) return null;
    const common = [
      ...dice.maybe(0.7, '-n', dice.pick(LV_NAMES)),
      ...dice.maybe(0.15, '--addtag', dice.pick(TAGS)),
      ...dice.maybe(0.1, '-r', dice.pick(READ_AHEADS)),
      ...dice.maybe(0.05, '-M', 'y', '--minor', String(dice.int(1, 200)), '--major', '253'),
      ...dice.maybe(0.1, '-k', 'y'),
      ...dice.maybe(0.1, '--setautoactivation', 'n'),
      ...dice.maybe(0.1, '-p', 'r'),
    ];
    if (dice.chance(0.07)) {
      return ['lvcreate', '--type', dice.pick(['error', 'zero']), '-l', String(dice.int(1, 9)), ...common, vg.vg.name];
    }
    return [
      'lvcreate',
      ...size(dice),
      ...stripes(dice),
      ...common,
      ...dice.maybe(0.25, '--alloc', dice.pick(POLICIES)),
      ...dice.maybe(0.3, '-Z', 'n', '-W', 'n'),
      vg.vg.name,
      ...places(dice, vg),
    ];
  },
  lvremove(dice, world) {
    const lv = volume(dice, world);
    return lv === null ? null : ['lvremove', lv];
  },
  lvextend(dice, world) {
    const lv = volume(dice, world);
    if (lv === null) return null;
    const vg = world.scan.volumeGroups.find((item) => item.vg.name === lv.split('/')[0]);
    const policy = dice.maybe(0.2, '--alloc', dice.pick(POLICIES));
    const list = vg === undefined ? [] : places(dice, vg);
    return ['lvextend', ...newSize(dice, ['+', '+', '']), ...stripes(dice), ...policy, lv, ...list];
  },
  lvreduce(dice, world) {
    const lv = volume(dice, world);
    return lv === null ? null : ['lvreduce', '-f', ...newSize(dice, ['-', '']), lv];
  },
  lvresize(dice, world) {
    const lv = volume(dice, world);
    return lv === null ? null : ['lvresize', '-f', ...newSize(dice, ['', '+', '-']), lv];
  },
  lvrename(dice, world) {
    const lv = volume(dice, world);
    return lv === null ? null : ['lvrename', lv, dice.pick(LV_NAMES)];
  },
  lvchange(dice, world) {
    const lv = volume(dice, world);
    if (lv === null) return null;
    const change = dice.pick([
      ['-p', dice.pick(['r', 'rw'])],
      ['--addtag', dice.pick(TAGS)],
      ['--deltag', dice.pick(TAGS)],
      ['--alloc', dice.pick(POLICIES)],
      ['-C', dice.pick(['y', 'n'])],
      ['-r', dice.pick(READ_AHEADS)],
      ['-k', dice.pick(['y', 'n'])],
      ['--setautoactivation', dice.pick(['y', 'n'])],
      ['-M', 'y', '--major', '253', '--minor', String(dice.int(1, 200))],
      ['-M', 'n'],
    ]);
    return ['lvchange', ...change, lv];
  },
  pvmove(dice, world) {
    const vg = group(dice, world);
    if (vg === null) return null;
    const [from, to] = dice.some(vg.pvs.flatMap(pathsOf), 2);
    if (from === undefined) return null;
    return ['pvmove', ...dice.maybe(0.3, '--alloc', 'anywhere'), from, ...(to === undefined ? [] : [to])];
  },
};

/** How often, in relation to each other. */
const WEIGHTS: readonly (readonly [Maker, number])[] = [
  [makerOf(pvMakers, 'pvcreate'), 6],
  [makerOf(pvMakers, 'pvremove'), 2],
  [makerOf(pvMakers, 'pvchange'), 4],
  [makerOf(pvMakers, 'pvresize'), 3],
  [makerOf(vgMakers, 'vgcreate'), 9],
  [makerOf(vgMakers, 'vgextend'), 6],
  [makerOf(vgMakers, 'vgreduce'), 4],
  [makerOf(vgMakers, 'vgremove'), 1],
  [makerOf(vgMakers, 'vgrename'), 3],
  [makerOf(vgMakers, 'vgchange'), 7],
  [makerOf(vgMakers, 'vgexport'), 1],
  [makerOf(vgMakers, 'vgimport'), 8],
  [makerOf(vgMakers, 'vgsplit'), 4],
  [makerOf(vgMakers, 'vgmerge'), 3],
  [makerOf(vgMakers, 'vgck'), 1],
  [makerOf(vgMakers, 'vgcfgrestore'), 1],
  [makerOf(lvMakers, 'lvcreate'), 22],
  [makerOf(lvMakers, 'lvremove'), 5],
  [makerOf(lvMakers, 'lvextend'), 10],
  [makerOf(lvMakers, 'lvreduce'), 5],
  [makerOf(lvMakers, 'lvresize'), 5],
  [makerOf(lvMakers, 'lvrename'), 3],
  [makerOf(lvMakers, 'lvchange'), 7],
  [makerOf(lvMakers, 'pvmove'), 5],
];

function makerOf(makers: Record<string, Maker>, name: string): Maker {
  const maker = makers[name];
  if (maker === undefined) throw new RangeError(name);
  return maker;
}

const TOTAL = WEIGHTS.reduce((sum, [, weight]) => sum + weight, 0);

/** The next command; all questions are answered with yes. */
export function nextCommand(dice: Dice, world: World): CommandLine {
  for (;;) {
    let left = dice.int(0, TOTAL - 1);
    const maker = WEIGHTS.find(([, weight]) => (left -= weight) < 0)?.[0];
    const line = maker?.(dice, world) ?? null;
    if (line === null || !world.known.has(line[0])) continue;
    const [command, ...args] = line;
    return [command, ...args, '-y'];
  }
}

const K = ['-y', '-W', 'n'];

/** Commands of the real LVM2 that make LVs of the types which ours only keep. */
export function foreignCommand(dice: Dice, world: World): CommandLine | null {
  const vg = group(dice, world);
  const lv = volume(dice, world);
  if (vg === null) return null;
  const name = ['-n', `${dice.pick(LV_NAMES)}${dice.int(0, 9)}`];
  const pools = vg.vg.logicalVolumes.filter(({ segments }) => segments[0]?.type === 'thin-pool');
  const pool = pools.length === 0 ? null : `${vg.vg.name}/${dice.pick(pools).name}`;
  const make = (...args: readonly string[]): CommandLine => ['lvcreate', ...args, ...name, ...K, vg.vg.name];
  return dice.pick<CommandLine | null>([
    make('--type', 'raid1', '-m', '1', '-l', String(dice.int(1, 4))),
    make('--type', dice.pick(['raid0', 'raid5', 'raid0_meta']), '-i', '2', '-l', String(dice.int(1, 6))),
    make('--type', 'mirror', '-m', '1', '-l', String(dice.int(1, 4))),
    make('--type', 'thin-pool', '-L', '8m'),
    pool === null ? null : ['lvcreate', '-V', `${dice.int(1, 60)}m`, '-T', pool, ...name, ...K],
    lv === null ? null : ['lvcreate', '-s', ...dice.maybe(0.7, '-l', '2'), ...name, ...K, lv],
    lv === null ? null : ['lvconvert', '--type', 'cache', '--cachepool', cachePool(dice, vg), '-y', lv],
    make('--type', 'cache-pool', '-L', '8m'),
    lv === null ? null : ['lvconvert', '--type', 'raid1', '-m', '1', '-y', lv],
  ]);
}

function cachePool(dice: Dice, { vg }: VolumeGroup): string {
  const pools = vg.logicalVolumes.filter(
    ({ segments, status }) => segments[0]?.type === 'cache-pool' && status.includes('VISIBLE'),
  );
  return pools.length === 0 ? `${vg.name}/none` : `${vg.name}/${dice.pick(pools).name}`;
}
