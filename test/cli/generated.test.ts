/** What is written from the table of commands: manual pages, completion, and the names in bin/. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { readdirSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { COMMON_OPTIONS } from '../../src/cli/common-options.ts';
import { bashCompletion } from '../../src/cli/completion.ts';
import { describeFlags } from '../../src/daemon/flags.ts';
import { everyCommand } from '../../src/cli/every-command.ts';
import { commandPage, daemonPage, overviewPage, pageName, roff } from '../../src/cli/man.ts';
import { splitLine } from '../../src/cli/shell.ts';
import { CHECKOUT, withTemporaryFolder } from '../helpers/shared.ts';

const MACROS = new Set(['.TH', '.SH', '.TP', '.PP', '.br']);

const commands = await everyCommand();

test('bin/ has the commands that LVM2 has by their own names', () => {
  const bin = join(CHECKOUT, 'bin');
  const names = readdirSync(bin).filter((name) => name !== 'orion-lvm' && name !== 'orion-lvmd');
  const own = commands.filter(({ inner }) => !inner).map(({ name }) => name);
  assert.deepEqual(
    names.toSorted((a, b) => (a < b ? -1 : 1)),
    own,
  );
  for (const name of names) assert.equal(readlinkSync(join(bin, name)), 'orion-lvm');
});

describe('manual pages', () => {
  test('every page has its parts and every option', () => {
    for (const named of commands) {
      const page = commandPage(named);
      for (const part of ['NAME', 'SYNOPSIS', 'COMMON OPTIONS', 'EXIT STATUS', 'ENVIRONMENT', 'SEE ALSO']) {
        assert.ok(page.includes(`.SH ${part}\n`), `${named.name}: ${part}`);
      }
      for (const { long } of [...named.command.options, ...COMMON_OPTIONS]) {
        assert.ok(page.includes(`\\fB${roff(`--${long}`)}\\fR`), `${named.name}: --${long}`);
      }
    }
  });
  test('nothing but macros starts a line with a point', () => {
    for (const page of [
      ...commands.map((named) => commandPage(named)),
      overviewPage(commands),
      daemonPage(describeFlags()),
    ]) {
      const odd = page.split('\n').filter((line) => /^[.']/.test(line) && !MACROS.has(line.split(' ', 1)[0] ?? ''));
      assert.deepEqual(odd, []);
    }
  });
  test('text is kept as it is', () => {
    assert.equal(roff('.x -y \\z'), '\\&.x \\-y \\ez');
  });
  test('the daemon has one, with every flag of its command line', () => {
    const page = daemonPage(describeFlags());
    for (const part of ['NAME', 'SYNOPSIS', 'OPTIONS', 'SIGNALS', 'EXIT STATUS', 'FILES', 'SEE ALSO']) {
      assert.ok(page.includes(`.SH ${part}\n`), part);
    }
    const help = execFileSync(join(CHECKOUT, 'bin/orion-lvmd'), ['--help'], { encoding: 'utf8' });
    const flags = [...help.matchAll(/^ {2}(--[a-z-]+)/gm)].flatMap(([, flag = '']) => flag);
    assert.ok(flags.length > 5);
    for (const flag of flags) {
      if (flag !== '--version' && flag !== '--help') assert.ok(page.includes(`\\fB${roff(flag)}\\fR`), flag);
    }
  });
  test('pages of commands without a name of their own in bin/ take nobody his page, and are shown by either name', async () => {
    const inner = commands.filter((named) => named.inner);
    assert.ok(inner.some(({ name }) => name === 'man'));
    for (const named of inner) {
      assert.equal(pageName(named), `orion-lvm-${named.name}`);
      assert.ok(commandPage(named).includes(`.SH NAME\n${roff(pageName(named))} \\- `), named.name);
    }
    await withTemporaryFolder((folder) => {
      const orion = (...args: readonly string[]): string =>
        execFileSync(join(CHECKOUT, 'bin/orion-lvm'), args, { encoding: 'utf8', cwd: folder });
      orion('man', '--directory', '.');
      const pages = readdirSync(join(folder, 'man8'));
      assert.ok(pages.includes('lvs.8') && pages.includes('orion-lvm-top.8') && pages.includes('orion-lvmd.8'));
      assert.ok(!pages.includes('top.8'));
      assert.equal(orion('man', 'top'), orion('man', 'orion-lvm-top'));
      return Promise.resolve();
    });
  });
  test('a directory that is none is told without a stack', async () => {
    await withTemporaryFolder((folder) => {
      writeFileSync(join(folder, 'file'), '');
      const { status, stderr } = spawnSync(
        join(CHECKOUT, 'bin/orion-lvm'),
        ['man', '--directory', join(folder, 'file')],
        {
          encoding: 'utf8',
        },
      );
      assert.equal(status, 5);
      assert.equal(stderr, `  Cannot write manual pages: ENOTDIR: not a directory, mkdir '${folder}/file/man8'.\n`);
      return Promise.resolve();
    });
  });
  test('the overview names every command', () => {
    const page = overviewPage(commands);
    for (const { name } of commands) assert.ok(page.includes(`.TP\n\\fB${roff(name)}\\fR\n`), name);
  });
});

test('completion in bash', async () => {
  await withTemporaryFolder((folder) => {
    const script = join(folder, 'completion');
    writeFileSync(script, bashCompletion(commands));
    const complete = (line: string): readonly string[] => {
      // As bash does it: "=" is a word of its own.
      const words = line.split(/ |(?==)|(?<==)/);
      const list = words.map((word) => `'${word}'`).join(' ');
      const body = `. ${script}; COMP_WORDS=(${list}); COMP_CWORD=${words.length - 1}; _orion_lvm; printf '%s\\n' "\${COMPREPLY[@]}"`;
      return execFileSync('bash', ['-c', body], { encoding: 'utf8', cwd: folder }).split('\n').filter(Boolean);
    };
    assert.deepEqual(complete('orion-lvm pvcr'), ['pvcreate']);
    assert.deepEqual(complete('vgcreate --physicale'), ['--physicalextentsize']);
    assert.deepEqual(complete('orion-lvm lvs --nohe'), ['--noheadings']);
    assert.deepEqual(complete('lvs --reportformat j'), ['json', 'json_std']);
    assert.deepEqual(complete('lvs --reportformat=b'), ['basic']);
    assert.deepEqual(complete('pvs compl'), ['completion']);
    return Promise.resolve();
  });
});

test('lines of commands are split as shells do', () => {
  const cases: readonly (readonly [string, readonly string[]])[] = [
    ['lvcreate -l1  vg # c', ['lvcreate', '-l1', 'vg']],
    ['# all', []],
    [`pvs -o "a b" 'c "d' e\\ f`, ['pvs', '-o', 'a b', 'c "d', 'e f']],
    [`a#b "x#y" ""`, ['a#b', 'x#y', '']],
    [String.raw`vgs -S "vg_name=~\"a\""`, ['vgs', '-S', 'vg_name=~"a"']],
    [' ', []],
  ];
  for (const [line, words] of cases) assert.deepEqual(splitLine(line), words, line);
});
