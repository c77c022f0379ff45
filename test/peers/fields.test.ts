/**
 * Every field of pvs, vgs, lvs and their segments against LVM2 2.03.16, on every sample, every golden volume group, and one group
 * of what they don't have: values as JSON, widths and alignment in columns, and the list that -o help prints.
 */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { SECTIONS, type SectionId } from '../../src/cli/report/field.ts';
import { reportFields } from '../../src/cli/report/fields/table.ts';
import { unpackGolden, withTemporaryFolder } from '../helpers/shared.ts';
import { imagesOf, writeImages } from '../lvm/images.ts';
import { diskTexts } from '../ondisk/samples.ts';
import { oddGroupText } from './odd-group.ts';
import { type Judge, withJudge } from './reports.ts';

/** Field names of some sections but for some. */
function named(sections: readonly SectionId[], without: readonly string[] = []): string {
  const fields = reportFields.filter((field) => sections.includes(field.section) && !without.includes(field.id));
  return fields.map((field) => field.id).join(',');
}

const LV_SECTIONS = ['lv', 'lv-info', 'lv-status', 'lv-info-status'] as const;
const JSON_FORM = ['--reportformat', 'json', '--units', 'b'];

async function compareAll(judge: Judge): Promise<void> {
  await judge.sameResult(['lvs', '-a', '-o', named(LV_SECTIONS), ...JSON_FORM]);
  // LVM2 2.03.16 dies of lv_modules of a removed LV.
  await judge.sameResult(['lvs', '-a', '-H', '-o', named(LV_SECTIONS, ['lv_modules']), ...JSON_FORM]);
  await judge.sameResult(['lvs', '-a', '--segments', '-o', `lv_name,${named(['seg'])}`, ...JSON_FORM]);
  await judge.sameResult(['vgs', '-o', named(['vg']), ...JSON_FORM]);
  await judge.sameResult(['pvs', '-a', '-o', named(['label', 'pv']), ...JSON_FORM]);
  await judge.sameResult([
    'pvs',
    '-a',
    '--segments',
    '-o',
    named(['pvseg', 'label', 'pv', 'vg', 'seg', ...LV_SECTIONS]),
    ...JSON_FORM,
  ]);
}

/** Column widths and alignment of everything at once, words and numbers for yes and no. */
async function compareColumns(judge: Judge): Promise<void> {
  await judge.sameResult(['lvs', '-a', '-H', '-o', named([...LV_SECTIONS, 'vg'], ['lv_modules'])]);
  await judge.sameResult(['lvs', '-a', '--segments', '-o', `lv_name,${named(['seg'])}`]);
  await judge.sameResult([
    'pvs',
    '-a',
    '--segments',
    '--binary',
    '-o',
    named(['label', 'pv', 'pvseg', ...LV_SECTIONS]),
  ]);
}

describe('every field', { concurrency: 2 }, () => {
  for (const { name, text } of [...diskTexts(), { name: 'odd', text: oddGroupText() }]) {
    test(name, () =>
      withTemporaryFolder(async (folder) => {
        await withJudge(await writeImages(imagesOf(text, folder)), async (judge) => {
          await compareAll(judge);
          if (['odd', '12-history.raw', '10d-removemissing.raw'].includes(name)) await compareColumns(judge);
        });
      }),
    );
  }
  for (const name of ['basic', 'snap', 'thin', 'raid', 'cache']) {
    test(`golden ${name}`, () =>
      withTemporaryFolder(async (folder) => {
        await withJudge((await unpackGolden(name, folder)).images, compareAll);
      }));
  }
  test('of a partial group', () =>
    withTemporaryFolder(async (folder) => {
      const { images } = await unpackGolden('raid', folder);
      await withJudge(images, compareAll, [0, 2, 3, 4]);
    }));
});

describe('the table of fields', () => {
  test('has unique names, sections in order, and reads like LVM2', () => {
    const ids = reportFields.map((field) => field.id);
    assert.equal(new Set(ids).size, ids.length);
    const order = reportFields.map((field) => SECTIONS.findIndex((section) => section.id === field.section));
    assert.deepEqual(
      order,
      order.toSorted((a, b) => a - b),
    );
  });
});
