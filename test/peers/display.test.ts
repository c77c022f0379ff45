/**
 * The display and scan commands against LVM2 2.03.16, byte for byte: every form, on every sample, on the golden groups, on partial
 * and exported groups and orphans; and the option mixtures that both refuse.
 */
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { unpackGolden, withTemporaryFolder } from '../helpers/shared.ts';
import { imagesOf, pvHead, pvUuid, writeImages } from '../lvm/images.ts';
import { diskTexts } from '../ondisk/samples.ts';
import { oddGroupText } from './odd-group.ts';
import { type Judge, withJudge } from './reports.ts';

const FORMS = [
  'pvdisplay -m',
  'pvdisplay -c',
  'pvdisplay -s',
  'vgdisplay -v',
  'vgdisplay -c',
  'vgdisplay -s',
  'lvdisplay -a -m',
  'lvdisplay -H',
  'lvdisplay -c -H',
  'pvscan -u',
  'vgscan',
  'lvscan -a',
];

const MORE_FORMS = [
  'pvdisplay',
  'pvdisplay -v',
  'pvdisplay --units k',
  'pvdisplay --units h --nosuffix',
  'pvdisplay -C',
  'pvdisplay -C -o pv_name,pv_free --noheadings',
  'vgdisplay',
  'vgdisplay --units s',
  'vgdisplay -C',
  'vgdisplay -A',
  'lvdisplay',
  'lvdisplay --units M',
  'lvdisplay -C --segments',
  'pvscan',
  'pvscan -s',
  'pvscan -n',
  'pvscan -e',
  'lvscan',
];

const REFUSED = [
  'pvdisplay -m -c',
  'pvdisplay -s -c',
  'pvdisplay -a',
  'pvdisplay -C -c',
  'pvdisplay -o pv_name',
  'pvdisplay nosuch',
  'vgdisplay -s -c',
  'vgdisplay nosuch',
  'vgdisplay -A x',
  'vgdisplay --noheadings',
  'lvdisplay -c -m',
  'lvdisplay -C -m',
  'lvdisplay nosuch/x',
  'pvscan -e -n',
];

function results(judge: Judge, lines: readonly string[]): Promise<void> {
  return lines.reduce((before, line) => before.then(() => judge.sameResult(line.split(' '))), Promise.resolve());
}

describe('every form', { concurrency: 2 }, () => {
  for (const { name, text } of [...diskTexts(), { name: 'odd', text: oddGroupText() }]) {
    test(name, () =>
      withTemporaryFolder(async (folder) => {
        await withJudge(await writeImages(imagesOf(text, folder)), (judge) => results(judge, FORMS));
      }),
    );
  }
  for (const name of ['snap', 'thin', 'raid', 'cache']) {
    test(`golden ${name}`, () =>
      withTemporaryFolder(async (folder) => {
        await withJudge((await unpackGolden(name, folder)).images, (judge) =>
          results(judge, [...FORMS, ...MORE_FORMS]),
        );
      }));
  }
  test('of a partial group', () =>
    withTemporaryFolder(async (folder) => {
      const { images } = await unpackGolden('raid', folder);
      const shown = [0, 2, 3, 4];
      await withJudge(images, (judge) => results(judge, [...FORMS, 'pvscan', 'lvdisplay']), shown);
    }));
});

describe('one group and an orphan', () => {
  test('arguments, selection, refusals', () =>
    withTemporaryFolder(async (folder) => {
      const { images } = await unpackGolden('basic', folder);
      const sizeBytes = 36864 * 512;
      const head = pvHead({ uuid: pvUuid(7), sizeBytes, text: null });
      const orphan = await writeImages([{ path: join(folder, 'orphan'), head, sizeBytes }]);
      await withJudge([...images, ...orphan], async (judge) => {
        const [first = '', , last = ''] = judge.devices;
        await results(judge, [...MORE_FORMS, ...FORMS]);
        await results(judge, [`pvdisplay ${last}`, `pvdisplay -m ${first}`, 'lvdisplay vg_basic/lin vg_basic/str']);
        await results(judge, ['lvdisplay -S lv_size>20m', 'vgdisplay -S vg_name=none', 'pvdisplay -S pv_free=0 -c']);
        for (const line of REFUSED) await judge.same(line.split(' '));
      });
    }));
});
