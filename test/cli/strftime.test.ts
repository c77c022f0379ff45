/** Times by a format, held against date(1), which is the C library's strftime. */
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import { isTimeFormat, strftime } from '../../src/cli/report/strftime.ts';
import { mustRun } from '../helpers/run.ts';

const FORMAT =
  '%a|%A|%b|%B|%c|%C|%d|%D|%e|%F|%G|%g|%h|%H|%I|%j|%k|%l|%m|%M|%p|%P|%r|%R|%s|%S|%T|%u|%U|%V|%w|%W|%x|%X|%y|%Y|%z|%Z|%%';

describe('strftime', () => {
  for (const zone of ['UTC', 'Europe/Berlin', 'America/New_York', 'Asia/Kolkata']) {
    test(`in ${zone}`, async () => {
      const before = process.env['TZ'];
      process.env['TZ'] = zone;
      try {
        const sample = fc.sample(fc.integer({ min: 1, max: 2 ** 32 }), 200);
        const edges = [1, 1_767_225_600, 1_767_225_599, 1_798_761_600, 1_583_020_800, 951_782_400];
        const times = [...edges, ...sample];
        const input = times.map((seconds) => `@${seconds}`).join('\n');
        const theirs = await mustRun('date', ['-f', '-', `+${FORMAT}`], { input, env: { LC_ALL: 'C', TZ: zone } });
        assert.deepEqual(
          times.map((seconds) => strftime(FORMAT, seconds)),
          theirs.trimEnd().split('\n'),
        );
      } finally {
        if (before === undefined) delete process.env['TZ'];
        else process.env['TZ'] = before;
      }
    });
  }

  test('E and O change nothing, and what LVM2 does not let through is no format', () => {
    assert.equal(strftime('%Ey-%Od %t.', 0), strftime('%y-%d \t.', 0));
    for (const good of ['%Y', 'at %H', '%%', '%Ex', '%Oy']) assert(isTimeFormat(good), good);
    for (const bad of ['', '%n', '%q', '%', '%-d', '%E', '%Ed', '%Oz', 'a\nb', '%5Y', 'ü'])
      assert(!isTimeFormat(bad), bad);
  });
});
