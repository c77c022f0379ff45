/** pvs, vgs, lvs and fullreport against LVM2 2.03.16, byte for byte: options, selections, names, formats, and every sample. */
import { mkdir, open } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { unpackGolden, withTemporaryFolder } from '../helpers/shared.ts';
import { type Image, imagesOf, linear, pvHead, pvUuid, vgText, writeImages } from '../lvm/images.ts';
import { diskTexts, pvBytes } from '../ondisk/samples.ts';
import { type Judge, withJudge } from './reports.ts';

/** Splits a command line at spaces; '…' keeps them. */
function words(line: string): string[] {
  return [...line.matchAll(/'([^']*)'|(\S+)/g)].map((match) => match[1] ?? match[2] ?? '');
}

async function all(judge: Judge, lines: readonly string[], prefix = ''): Promise<void> {
  for (const line of lines) await judge.same(words(prefix + line));
}

const SHAPES = [
  'lvs',
  'lvs -v',
  'lvs -a -o+devices',
  'pvs -v',
  'vgs -v',
  'lvs --noh',
  'lvs --separator ,',
  'lvs --separator : --aligned',
  'lvs --nameprefixes --noheadings',
  'lvs --nameprefixes --unquoted --rows',
  'lvs --rows --noheadings',
  'pvs --unbuffered',
  'lvs --unbuffered -O-lv_name',
  'vgs --binary -o+vg_extendable,vg_exported',
  'lvs -O-lv_size,lv_name',
  'lvs -O lv_attr -o lv_name',
  'lvs -O lv_name,lv_name',
  'lvs -O lv_name,',
  'lvs -o LVNAME,Vg_Size,size',
  'lvs -o-lv_attr,size -o+uuid,tags',
  'lvs -o#origin,pool_lv,lv_attr',
  'lvs -o#nosuch',
  'lvs -o,',
  'lvs -o+,',
  'lvs -o ,lv_name,,vg_name',
  'lvs -o nosuch',
  'lvs -o help',
  'lvs -o lv_name,lv_name,selected -S size>40m',
  'lvs -O selected -S lv_size=64m',
];

const JOINED = [
  'vgs -o+lv_name',
  'vgs -o+pv_name',
  'vgs -o+pvseg_start',
  'vgs -o+seg_size vg_thin/t1',
  'vgs -o lv_name,pv_name',
  'lvs -o+pv_name',
  'lvs -o+vg_size,vg_free',
  'lvs --segments -v',
  'pvs --segments -v',
  'pvs -o+lv_name,segtype',
  'pvs -o pv_uuid',
  'pvs -S lv_name=t1',
  'vgs -S lv_name=t1',
  'fullreport vg_basic --configreport vg -o vg_name --configreport lv -o lv_name -S lv_name=lin --configreport pv -o pv_name',
  'fullreport --configreport lv -o pv_name',
  'fullreport --configreport vg -o lv_name',
  'lvs -o vg_name --configreport vg -o lv_name --configreport lv -o+lv_size',
  'lvs --configreport x',
];

const NAMES = [
  'lvs nosuch vg_basic/nosuch vg_basic/lin vg_thin',
  'lvs /dev/vg_basic/lin /dev/mapper/vg_thin-t1',
  'lvs a/b/c',
  'lvs vg_basic/',
  'lvs -',
  'lvs @db vg_thin/t1',
  "lvs '@a b'",
  'lvs vg_thin/pool_tmeta',
  'lvs --segments vg_thin/pool_tmeta',
  'vgs vg_thin nosuch vg_basic',
  'vgs a/b',
  'vgs @prod',
  "vgs '@a b'",
  'pvs /dev/nosuch /dev/null',
  'pvs @prod',
  'pvs -o pv_uuid /dev/nosuch',
  'pvs -a',
];

const USAGE = [
  'lvs -a -a',
  'lvs --units g --units m',
  'lvs --no',
  'lvs --bogus',
  'lvs -Z',
  'lvs -o',
  'lvs --noheadings=1',
  'lvs --no-headings --unit=m',
  'lvs -avo lv_name -- vg_basic',
  'lvs --units x',
  'lvs --reportformat foo',
  'lvs -t',
];

const JSON_FORMS = [
  'lvs --reportformat json',
  'pvs --segments --reportformat json',
  'lvs --reportformat json -S lv_name=x',
  'lvs --reportformat json nosuch',
  'lvs --reportformat json -o nosuch',
  'vgs --reportformat json a/b/c',
  'lvs --reportformat json --unbuffered --rows --separator x',
  'fullreport --reportformat json vg_basic --configreport pvseg -o pvseg_start --configreport seg -o seg_start',
];

const UNITS = [
  'r',
  'R',
  'h',
  'H',
  'b',
  's',
  'k',
  'K',
  'm',
  'M',
  'g',
  'G',
  't',
  'T',
  'p',
  'E',
  '4m',
  '1.5k',
  '0.5s',
  '3M',
];

const CRITERIA = [
  'lv_name=lin',
  'lv_name!=lin',
  'lv_name=~^t',
  'lv_name!~"[st]1"',
  'lv_name=~(t1|lin)',
  'size>=40m',
  'size=81920s',
  'size<0.0625g',
  'size=40',
  'lv_name=lin || lv_name=t1 && vg_name=x',
  '(lv_name=lin # lv_name=str) , size>30m',
  '!(lv_name=lin || lv_name=str)',
  'lv_tags=db',
  'lv_tags={db,x}',
  'lv_tags={db||x}',
  'lv_tags=""',
  'lv_role=[public,snapshot,thicksnapshot]',
  'lv_layout={thin||linear}',
  'lv_layout=[linear',
  'lv_layout=[linear}',
  'lv_layout=[linear,thin||x]',
  'lv_major=undefined',
  'lv_major>1',
  'lv_read_ahead=auto',
  'lv_read_ahead>1',
  'seg_count>1',
  'seg_count=1k',
  'seg_count=5%',
  'data_percent=0',
  'data_percent>200',
  'lv_skip_activation=0',
  'lv_skip_activation=yes',
  'lv_suspended=unknown',
  'lv_time=2026-11',
  'lv_time="2026-11-22 12:20"',
  'lv_time since "2026-11-22 12:20:02"',
  'lv_time before "2026-11-22 12:20:02 +01:00"',
  'lv_time>@1795350001',
  'lv_time="2026-02-30"',
  'lv_time="2026 12:00"',
  'lv_time since "1 year ago"',
  'lv_time="22 Nov 2026"',
  'lv_name=lin lv_name=x',
  'lv_name=lin &&',
  '(lv_name=lin',
  '!lv_name=lin',
  'all',
  'lv_size=~x',
  'lv_name=~',
  'lv_name = "lin" ',
  'selected=1',
  'pool_lv=""',
  'lv_size=x',
];

describe('three volume groups together', { concurrency: 3 }, () => {
  const suites: readonly (readonly [string, (judge: Judge) => Promise<void>])[] = [
    ['columns, sorting and fields', (judge) => all(judge, SHAPES)],
    ['joined reports', (judge) => all(judge, JOINED)],
    ['names and tags', (judge) => all(judge, NAMES)],
    ['usage', (judge) => all(judge, USAGE)],
    ['JSON', (judge) => all(judge, JSON_FORMS)],
    ['units', (judge) => all(judge, UNITS, 'lvs -a --segments -o lv_name,lv_size,seg_start,chunk_size --units ')],
    ['units without suffix', (judge) => all(judge, UNITS, 'vgs --nosuffix -o+vg_extent_size --units ')],
    [
      'selection',
      async (judge) => {
        for (const criteria of CRITERIA) await judge.same(['lvs', '-o', 'lv_name,lv_size', '-S', criteria]);
      },
    ],
    ['a VG from the environment', (judge) => judge.same(['lvs', 'lin', 'vg_thin/t1'], { LVM_VG_NAME: 'vg_basic' })],
  ];
  for (const [name, use] of suites) {
    test(name, () => withGoldens((files) => withJudge(files, use)));
  }
  test('missing PVs', () =>
    withGoldens((files) =>
      withJudge(
        files,
        (judge) =>
          all(judge, ['pvs', 'vgs -o+vg_missing_pv_count', 'lvs -o lv_name', 'lvs vg_basic', 'pvs --segments']),
        [1, 2, 4],
      ),
    ));
});

async function withGoldens(use: (files: readonly string[]) => Promise<void>): Promise<void> {
  await withTemporaryFolder(async (folder) => {
    const files: string[] = [];
    for (const name of ['basic', 'snap', 'thin']) {
      files.push(...(await unpacked(folder, name)));
    }
    await use(files);
  });
}

async function unpacked(folder: string, name: string): Promise<readonly string[]> {
  const own = join(folder, name);
  await mkdir(own);
  return (await unpackGolden(name, own)).images;
}

/** Overwrites the last bytes of a file. */
async function writeEnd(path: string, bytes: Buffer): Promise<void> {
  const file = await open(path, 'r+');
  try {
    await file.write(bytes, 0, bytes.length, (await file.stat()).size - bytes.length);
  } finally {
    await file.close();
  }
}

/** A VG of two PVs whose ids differ from those of the others; `more` are further fields of the VG. */
function smallGroup(letter: string, name: string, folder: string, more = ''): Image[] {
  const text = vgText([{ name: 'lv1', segments: [linear(0, 4, 'pv0', 0)] }], { name })
    .replaceAll('PvPvPv-', `${letter}vPvPv-`)
    .replaceAll('LvLvLv-', `${letter}wLvLv-`)
    .replace('VgVgVg-', `${letter}gVgVg-`)
    .replace('extent_size =', `${more}extent_size =`);
  return imagesOf(text, folder).map(({ head, sizeBytes }, index) => ({
    path: join(folder, `${letter}${index}`),
    head,
    sizeBytes,
  }));
}

const PV_BYTES = 36864 * 512;

describe('unusual groups', { concurrency: 3 }, () => {
  test('an orphan and a device that is no PV', () =>
    withTemporaryFolder(async (folder) => {
      const head = pvHead({ uuid: pvUuid(7), sizeBytes: PV_BYTES, text: null });
      const files = await writeImages([
        ...smallGroup('A', 'vg1', folder),
        { path: join(folder, 'orphan'), head, sizeBytes: PV_BYTES },
        { path: join(folder, 'blank'), head: Buffer.alloc(0), sizeBytes: PV_BYTES },
      ]);
      await withJudge(files, async (judge) => {
        const [, , orphan = '', blank = ''] = judge.devices;
        await all(judge, ['pvs -v', 'pvs -a', 'pvs --segments -a', 'pvs -o pv_uuid', 'fullreport', `pvs ${orphan}`]);
        await all(judge, [`pvs ${blank}`, `pvs -o pv_uuid ${blank}`, 'pvs --unbuffered']);
      });
    }));
  test('a PV seen twice', () =>
    withTemporaryFolder(async (folder) => {
      const images = smallGroup('A', 'vg1', folder);
      const copies = images.slice(0, 1).map(({ head, sizeBytes }) => ({ path: join(folder, 'copy'), head, sizeBytes }));
      await withJudge(await writeImages([...images, ...copies]), async (judge) => {
        const [first = '', , copy = ''] = judge.devices;
        await all(judge, ['pvs', 'vgs', 'lvs -v', 'pvs -a', 'pvs --segments', `pvs ${copy}`, `pvs ${first}`]);
      });
    }));
  test("another host's VG", () =>
    withTemporaryFolder(async (folder) => {
      const images = [...smallGroup('A', 'vg1', folder), ...smallGroup('B', 'vgfar', folder, 'system_id = "far"\n')];
      await withJudge(await writeImages(images), async (judge) => {
        await all(judge, ['pvs -v', 'vgs', 'lvs -v', 'lvs vgfar', 'vgs vgfar', `pvs ${judge.devices[2]}`]);
        await all(judge, ['vgs --foreign', 'lvs --foreign vgfar', 'pvs --foreign']);
      });
    }));
  test('a shared VG', () =>
    withTemporaryFolder(async (folder) => {
      const lock = 'lock_type = "sanlock"\nlock_args = "1.0.0:lvmlock"\n';
      const images = [...smallGroup('A', 'vg1', folder), ...smallGroup('B', 'vgsan', folder, lock)];
      await withJudge(await writeImages(images), async (judge) => {
        await all(judge, ['pvs -v', 'vgs', 'lvs -v', 'lvs vgsan', 'vgs vgsan', `pvs ${judge.devices[2]}`]);
        await all(judge, ['vgs --shared', 'lvs --shared vgsan', 'pvs --shared']);
      });
    }));
});

const EVERYWHERE = ['vgs -v', 'lvs -H -a -v', 'lvs -a --segments -o+devices', 'pvs --segments -v'];

describe('every sample', { concurrency: 3 }, () => {
  for (const sample of diskTexts()) {
    test(sample.name, () =>
      withTemporaryFolder(async (folder) => {
        const files = await writeImages(imagesOf(sample.text, folder));
        await withJudge(files, (judge) => all(judge, EVERYWHERE));
      }),
    );
  }
  for (const name of ['raid', 'cache']) {
    test(`golden ${name}`, () =>
      withTemporaryFolder(async (folder) => {
        await withJudge((await unpackGolden(name, folder)).images, (judge) => all(judge, EVERYWHERE));
      }));
  }
  test('PVs of unusual layouts', () =>
    withTemporaryFolder(async (folder) => {
      const images = [0, 1, 2, 3, 4, 5].map((number) => {
        const head = pvBytes(`11-pv${number}-first2M.bin.gz`);
        return { path: join(folder, `pv${number}`), head, sizeBytes: 256 * 1024 * 1024 };
      });
      const blank = { path: join(folder, 'blank'), head: Buffer.alloc(0), sizeBytes: 8 * 1024 * 1024 };
      const files = await writeImages([...images, blank]);
      await writeEnd(files[0] ?? '', pvBytes('11-pv0-last2M.bin.gz'));
      await withJudge(files, (judge) => all(judge, [...EVERYWHERE, 'pvs -a -v', 'pvs -v', 'vgs --foreign']));
    }));
});
