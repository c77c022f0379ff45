/**
 * The text of one volume group with what no sample has: a VDO pool, a mirror being converted, a raid being reshaped, an LV of
 * several segment types, thin snapshots of snapshots one of which is merged, a history of two generations, odd allocation
 * policies, a persistent minor number, tags on segments.
 */

let uuids = 0;
function uuid(): string {
  const number = String(uuids++).padStart(6, '0');
  return `${number}-aaaa-bbbb-cccc-dddd-eeee-${number}`;
}

interface Parts {
  readonly hidden?: boolean;
  readonly status?: readonly string[];
  readonly flags?: readonly string[];
  readonly extra?: string;
}

function quoted(words: readonly string[]): string {
  return `[${words.map((word) => `"${word}"`).join(', ')}]`;
}

function lv(name: string, segments: readonly string[], parts: Parts = {}): string {
  const status = parts.status ?? ['READ', 'WRITE', ...(parts.hidden === true ? [] : ['VISIBLE'])];
  const body = segments.map((segment, index) => `segment${index + 1} {\n${segment}\n}\n`).join('');
  return (
    `${name} {\nid = "${uuid()}"\nstatus = ${quoted(status)}\nflags = ${quoted(parts.flags ?? [])}\n` +
    `${parts.extra ?? ''}segment_count = ${segments.length}\n${body}}\n`
  );
}

function segment(start: number, count: number, type: string, fields = ''): string {
  return `start_extent = ${start}\nextent_count = ${count}\ntype = "${type}"\n${fields}`;
}

function linear(pe: number, count: number, pv = 'pv0', start = 0): string {
  return segment(start, count, 'striped', `stripe_count = 1\nstripes = ["${pv}", ${pe}]`);
}

function part(name: string, pe: number, count: number, pv = 'pv0'): string {
  return lv(name, [linear(pe, count, pv)], { hidden: true });
}

const VDO_SETTINGS =
  'header_size = 1024\nvirtual_extents = 20\nuse_compression = 1\nuse_deduplication = 0\nuse_metadata_hints = 1\n' +
  'minimum_io_size = 4096\nblock_map_cache_size_mb = 128\nblock_map_era_length = 16380\nuse_sparse_index = 0\n' +
  'index_memory_size_mb = 256\nmax_discard = 1\nslab_size_mb = 2048\nack_threads = 1\nbio_threads = 4\nbio_rotation = 64\n' +
  'cpu_threads = 2\nhash_zone_threads = 1\nlogical_threads = 1\nphysical_threads = 1\nwrite_policy = "sync"';

function vdo(): string {
  return (
    lv('vp', [segment(0, 10, 'vdo-pool', `data = "vp_vdata"\n${VDO_SETTINGS}`)]) +
    part('vp_vdata', 0, 10) +
    lv('vdolv', [segment(0, 20, 'vdo', 'vdo_pool = "vp"\nvdo_offset = 0')])
  );
}

function mirror(images: string, log = ''): string {
  return segment(0, 2, 'mirror', `mirror_count = 2\n${log}region_size = 1024\nmirrors = [${images}]`);
}

function conversion(): string {
  return (
    lv('conv', [mirror('"conv_mimagetmp_2", 0, "conv_mimage_2", 0')]) +
    lv('conv_mimagetmp_2', [mirror('"conv_mimage_0", 0, "conv_mimage_1", 0', 'mirror_log = "conv_mlog"\n')], {
      hidden: true,
    }) +
    part('conv_mimage_0', 12, 2) +
    part('conv_mimage_1', 0, 2, 'pv1') +
    part('conv_mimage_2', 14, 2) +
    part('conv_mlog', 2, 1, 'pv1')
  );
}

function reshape(): string {
  const pairs = [0, 1, 2].map((index) => `"rs5_rmeta_${index}", "rs5_rimage_${index}"`).join(', ');
  const raid = segment(
    0,
    6,
    'raid5+RESHAPE+RESHAPE_DELTA_DISKS_PLUS',
    `reshape_count = 1\ndevice_count = 3\nregion_size = 1024\nstripe_size = 128\ndata_offset = 1\nraids = [${pairs}]`,
  );
  const places: readonly (readonly [string, number])[] = [
    ['pv0', 32],
    ['pv1', 30],
    ['pv1', 40],
  ];
  const parts = places.map(
    ([pv, pe], index) =>
      part(`rs5_rmeta_${index}`, pe, 1, pv) +
      lv(`rs5_rimage_${index}`, [`reshape_count = 1\n${linear(pe + 1, 4, pv)}`], {
        status: ['READ', 'WRITE', ...(index === 1 ? ['REBUILD'] : [])],
      }),
  );
  return lv('rs5', [raid]) + parts.join('');
}

function thin(): string {
  const volume = (name: string, id: number, fields = '', parts: Parts = {}): string =>
    lv(name, [segment(0, 5, 'thin', `thin_pool = "tp"\ntransaction_id = ${id}\ndevice_id = ${id}\n${fields}`)], parts);
  const pool =
    'metadata = "tp_tmeta"\npool = "tp_tdata"\ntransaction_id = 9\nchunk_size = 128\ndiscards = "ignore"\n' +
    'zero_new_blocks = 1\ncrop_metadata = 1\nmessage1 {\ncreate = "t5"\n}';
  return (
    lv('tp', [segment(0, 4, 'thin-pool+CROP_METADATA', pool)]) +
    part('tp_tdata', 40, 4) +
    part('tp_tmeta', 50, 1, 'pv1') +
    volume('t0', 1) +
    volume('t1', 2, 'origin = "t0"') +
    volume('t2', 3, 'origin = "t0"', { flags: ['ACTIVATION_SKIP'] }) +
    volume('t3', 4, 'origin = "t1"') +
    volume('t4', 5, 'external_origin = "xo"') +
    volume('t5', 6, 'external_origin = "xo"') +
    volume('tmerge', 7, 'origin = "t0"\nmerge = "t0"') +
    lv('xo', [linear(45, 5)], { status: ['READ', 'VISIBLE'] }) +
    part('cowt', 52, 1) +
    lv('snapshot0', [segment(0, 5, 'snapshot', 'chunk_size = 8\norigin = "t1"\ncow_store = "cowt"')]) +
    part('lvol0_pmspare', 51, 1)
  );
}

function singles(): string {
  return (
    lv('tagged', [`${linear(10, 2)}\ntags = ["s1", "s0"]`], {
      status: ['READ', 'VISIBLE'],
      flags: ['WRITE_LOCKED'],
      extra:
        'tags = ["zz", "aa"]\ncreation_time = 1600000000\ncreation_host = "h"\nallocation_policy = "cling_by_tags"\nprofile = "p1"\n',
    }) +
    lv('mixed', [
      linear(20, 2),
      segment(2, 4, 'striped', 'stripe_count = 2\nstripe_size = 128\nstripes = ["pv0", 22, "pv1", 22]'),
      segment(6, 2, 'error'),
      segment(8, 3, 'zero'),
    ]) +
    lv('allany', [linear(30, 1)], { extra: 'allocation_policy = "normal"\nread_ahead = 1024\n' }) +
    lv('locked', [linear(31, 1)], {
      status: ['READ', 'WRITE', 'VISIBLE', 'LOCKED', 'FIXED_MINOR'],
      extra: 'major = 252\nminor = 9\n',
    })
  );
}

function removed(name: string, seconds: number, fields: string): string {
  return `${name} {\nid = "${uuid()}"\ncreation_time = 1600000100\nremoval_time = ${seconds}\n${fields}}\n`;
}

function history(): string {
  return (
    removed('th', 1600000200, 'origin = "t0"\ndescendants = ["t3"]\n') +
    removed('tg', 1600000300, 'origin = "-th"\ndescendants = ["t4"]\n')
  );
}

/** The on-disk text, for two PVs of 256 MiB with 4 MiB extents. */
export function oddGroupText(): string {
  uuids = 0;
  const pv = (label: string): string =>
    `${label} {\nid = "${uuid()}"\ndevice = "/dev/gone"\nstatus = ["ALLOCATABLE"]\nflags = []\ndev_size = 524288\n` +
    `pe_start = 2048\npe_count = 63\n}\n`;
  return (
    `vgodd {\nid = "${uuid()}"\nseqno = 3\nformat = "lvm2"\nstatus = ["RESIZEABLE", "READ", "WRITE"]\nflags = []\n` +
    `extent_size = 8192\nmax_lv = 0\nmax_pv = 0\nmetadata_copies = 0\nphysical_volumes {\n${pv('pv0')}${pv('pv1')}}\n` +
    `logical_volumes {\n${vdo()}${singles()}${conversion()}${reshape()}${thin()}}\n` +
    `historical_logical_volumes {\n${history()}}\n}\n` +
    'contents = "Text Format Volume Group"\nversion = 1\ndescription = ""\ncreation_host = "h"\ncreation_time = 1600000000\n'
  );
}
