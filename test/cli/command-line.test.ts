/** Options, names of volumes, dispatch and help. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { describe, test } from 'node:test';
import * as fc from 'fast-check';
import { COMMANDS } from '../../src/cli/commands/table.ts';
import { CommandError } from '../../src/cli/messages.ts';
import { type OptionSpec, type ParsedOptions, parseOptions } from '../../src/cli/options.ts';
import { parseLvArguments, parsePvArguments, parseVgArguments } from '../../src/cli/report/arguments.ts';
import { run } from '../../src/cli/run.ts';
import { Lines } from './fake-report.ts';
import { NOBODY } from '../helpers/terminal.ts';

const SPECS: readonly OptionSpec[] = [
  { long: 'all', short: 'a', description: 'x' },
  { long: 'units', argument: 'String', description: 'x' },
  { long: 'unquoted', description: 'x' },
  { long: 'verbose', short: 'v', countable: true, description: 'x' },
  { long: 'options', short: 'o', argument: 'String', groupable: true, description: 'x' },
  { long: 'select', short: 'S', argument: 'String', groupable: true, description: 'x' },
  {
    long: 'configreport',
    argument: 'x|y',
    groupable: true,
    startsGroup: true,
    check: (value) => ['x', 'y'].includes(value),
    description: 'x',
  },
];

function parse(...argv: readonly string[]): ParsedOptions {
  return parseOptions('cmd', SPECS, argv, new Lines());
}

function refusal(...argv: readonly string[]): readonly string[] {
  const lines = new Lines();
  try {
    parseOptions('cmd', SPECS, argv, lines);
  } catch (error) {
    assert.ok(error instanceof CommandError);
    assert.equal(error.exitCode, 3);
    return [...lines.err, ...error.lines.slice(0, -1)];
  }
  throw new assert.AssertionError({ message: 'it was taken' });
}

describe('options', () => {
  test('values in all their places', () => {
    for (const argv of [['--units=m'], ['--units', 'm'], ['--uni', 'm'], ['--u-n-i=m'], ['x', '--units', 'm']]) {
      assert.equal(parse(...argv).value('units'), 'm');
    }
    assert.equal(parse('-avoname').value('options'), 'name');
    assert.equal(parse('-o', '-name').value('options'), '-name');
    assert.equal(parse('-o+name').value('options'), '+name');
  });
  test('arguments between options, and after --', () => {
    assert.deepEqual(parse('x', '-a', 'y', '--', '-v').args, ['x', 'y', '-v']);
    assert.deepEqual(parse('-').args, ['-']);
  });
  test('counting', () => assert.equal(parse('-v', '-vv', '--verbose').count('verbose'), 4));
  test('groups', () => {
    const { groups } = parse('-o', '1', '-S', '2', '-o', '3', '--configreport', 'x', '-o', '4', '-S', '5');
    assert.deepEqual(
      groups.map((group) => Object.fromEntries(group)),
      [{ options: '1', select: '2' }, { options: '3' }, { configreport: 'x', options: '4', select: '5' }],
    );
  });
  test('what getopt says', () => {
    assert.deepEqual(refusal('--bogus'), ["cmd: unrecognized option '--bogus'"]);
    assert.deepEqual(refusal('-Z'), ["cmd: invalid option -- 'Z'"]);
    assert.deepEqual(refusal('-o'), ["cmd: option requires an argument -- 'o'"]);
    assert.deepEqual(refusal('--units'), ["cmd: option '--units' requires an argument"]);
    assert.deepEqual(refusal('--all=1'), ["cmd: option '--all' doesn't allow an argument"]);
    assert.deepEqual(refusal('--un'), ["cmd: option '--un' is ambiguous; possibilities: '--units' '--unquoted'"]);
  });
  test('what LVM2 says', () => {
    assert.deepEqual(refusal('-a', '--all'), ['Option -a/--all may not be repeated.']);
    assert.deepEqual(refusal('--units=m', '--units=g'), ['Option --units may not be repeated.']);
    assert.deepEqual(refusal('--configreport', 'z'), ['Invalid argument for --configreport: z']);
  });
  test('any command line is taken or refused', () => {
    fc.assert(
      fc.property(
        fc.array(fc.constantFrom('-', '--', '-a', '-o', '--o', '--un', '-av', 'x', '=', '--=', '')),
        (argv) => {
          try {
            parse(...argv);
          } catch (error) {
            assert.ok(error instanceof CommandError);
          }
        },
      ),
      { numRuns: 200 },
    );
  });
});

describe('names', () => {
  const lines = new Lines();
  test('of logical volumes', () => {
    const parsed = parseLvArguments(['vg', 'vg2/lv', '/dev/vg2/lv', '/dev/mapper/a--b-c--d', '@t'], undefined, lines);
    assert.deepEqual(parsed?.vgNames, ['vg', 'vg2', 'a-b']);
    assert.deepEqual(parsed.wholeVgs, ['vg']);
    assert.deepEqual(parsed.lvNames.get('vg2'), ['lv']);
    assert.deepEqual(parsed.lvNames.get('a-b'), ['c-d']);
    assert.deepEqual(parsed.tags, ['t']);
    assert.deepEqual(parseLvArguments(['lv', '/dev/vg'], 'def', lines)?.lvNames.get('def'), ['lv']);
    assert.equal(parseLvArguments(['a/b/c'], undefined, lines), null);
    assert.equal(parseLvArguments(['/a'], undefined, lines), null);
  });
  test('of volume groups', () => {
    assert.deepEqual(parseVgArguments(['vg', '/dev/vg', '@t'], lines), { vgNames: ['vg'], tags: ['t'] });
    assert.equal(parseVgArguments(['a/b'], lines), null);
    assert.equal(parseVgArguments(['@-x'], lines), null);
  });
  test('of physical volumes', () => {
    assert.deepEqual(parsePvArguments(['/dev/a', '/dev/a', '@t', 'x\\@y'], lines), {
      names: ['/dev/a', 'x@y'],
      tags: ['t'],
    });
  });
});

async function runHere(...argv: readonly string[]): Promise<Lines & { status: number }> {
  const lines = new Lines();
  const status = await run(argv, lines, { env: {}, cwd: '/nonexistent', uid: 1000, now: 0, terminal: NOBODY });
  return Object.assign(lines, { status });
}

describe('dispatch', () => {
  test('an unknown command', async () => {
    const { status, err } = await runHere('lvnosuch');
    assert.equal(status, 2);
    assert.deepEqual(err, ["No such command.  Try 'orion-lvm help'."]);
  });
  test('options before a command', async () => assert.equal((await runHere('-v', 'lvs')).status, 3));
  test('help', async () => {
    assert.equal((await runHere()).status, 3);
    assert.equal((await runHere('help')).status, 0);
    assert.deepEqual((await runHere('help', 'lvs')).out, (await runHere('lvs', '--help')).out);
  });
  test('every command explains its options, and no option twice', async () => {
    for (const [name, entry] of COMMANDS) {
      const { command } = await entry.load();
      assert.equal(command.summary, entry.summary);
      const { out, status } = await runHere(name, '--longhelp');
      assert.equal(status, 0);
      const usage = out.filter((line) => line.startsWith('\t[ ') && line.includes('--'));
      assert.equal(new Set(usage).size, usage.length, name);
    }
  });
  test('without root and without devices there is nothing to look at', async () => {
    const { status, err } = await runHere('lvs');
    assert.equal(status, 5);
    assert.match(err.join('\n'), /No devices to look at: give --devices/);
    for (const args of [
      ['pvcreate', 'none.img'],
      ['vgcreate', 'vg', 'none.img'],
    ]) {
      const missing = await runHere(...args);
      assert.equal(missing.status, 5);
      assert.deepEqual(missing.err[0], 'No device found for none.img.');
    }
  });
  test('bad usage points to the help', async () => {
    const { status, err } = await runHere('lvs', '--units', 'x');
    assert.equal(status, 3);
    assert.deepEqual(err, ['Invalid units specification', "Run `lvs --help' for more information."]);
    const inner = await runHere('attach');
    assert.equal(inner.status, 3);
    assert.equal(inner.err.at(-1), "Run `orion-lvm attach --help' for more information.");
    const { out } = await runHere('attach', '--help');
    assert.deepEqual(out.slice(0, 3), [
      'attach - Attach a logical volume to a kernel block device',
      '',
      'orion-lvm attach',
    ]);
  });
  test('a device that is not there', async () => {
    const { status, err, out } = await runHere('lvs', '--devices', '/nonexistent/disk');
    assert.equal(status, 0);
    assert.deepEqual(err, ['Device not found for /nonexistent/disk.']);
    assert.deepEqual(out, []);
  });
  test('the configuration, which lvm.toml.example states too', async () => {
    const { out, status } = await runHere('config', '--type', 'default');
    assert.equal(status, 0);
    assert.ok(out.includes('engine = "auto"'));
    const example = readFileSync(new URL('../../lvm.toml.example', import.meta.url), 'utf8').split('\n');
    for (const line of out.slice(1)) assert.ok(line === '' || example.includes(line), line);
  });
  test('single keys and sections of it', async () => {
    const { out, err, status } = await runHere('config', 'log/level', 'log', 'devices', 'nosuch');
    assert.deepEqual(out, ['level = "info"', '[log]', 'level = "info"', 'format = "auto"', 'devices = []']);
    assert.deepEqual(err, ['Configuration node nosuch not found']);
    assert.equal(status, 5);
  });
  test('a config file that is not there', async () => {
    const { err, status } = await runHere('lvs', '--config', '/nonexistent/lvm.toml');
    assert.equal(status, 3);
    assert.match(err[0] ?? '', /cannot read the config file \/nonexistent\/lvm.toml/);
  });
});
