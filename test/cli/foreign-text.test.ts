/**
 * Text of somebody else's on a terminal: the header of a foreign backup image, free text in metadata on a device, names of a
 * daemon's clients. Nothing of it acts there, or passes for a line of ours; what scripts read stays as it is.
 */
import assert from 'node:assert/strict';
import { readFile, truncate, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { StreamOutput } from '../../src/cli/messages.ts';
import { run } from '../../src/cli/run.ts';
import { textTable } from '../../src/cli/text-table.ts';
import { readable } from '../../src/daemon/log.ts';
import { encodeHeader } from '../../src/ondisk/backup-image.ts';
import { FormatError } from '../../src/ondisk/errors.ts';
import { escapedJson, plainJson, plainLines, plainText } from '../../src/ondisk/plain-text.ts';
import type { Outcome } from '../helpers/run.ts';
import { withTemporaryFolder } from '../helpers/shared.ts';
import { NOBODY } from '../helpers/terminal.ts';

/** Clears the screen, sets a title, the same in C1, turns the direction, ends the line, and pretends to be a message. */
const EVIL = 'a\u001b[2J\u001b]0;t\u0007\u009b2J\u202eb\r\n  Logical volume vg/lv restored.\u2028\u007f';
/** Control characters but for ends of lines and tabs, and bidirectional ones. */
const ACTS = /[^\P{Cc}\t\n]|[\p{Bidi_Control}\p{Zl}\p{Zp}]/u;

async function command(folder: string, terminal: boolean, ...args: readonly string[]): Promise<Outcome> {
  let [stdout, stderr] = ['', ''];
  const output = new StreamOutput(
    { isTTY: terminal, write: (text) => (stdout += text) },
    { isTTY: terminal, write: (text) => (stderr += text) },
  );
  const env = { LVM_SYSTEM_DIR: folder, ORION_LVM_CONTROL: '', ORION_LVM_DEVICES: join(folder, 'pv0') };
  const status = await run(args, output, { env, cwd: folder, uid: 1000, now: 0, terminal: NOBODY });
  output.flush();
  return { status, stdout, stderr };
}

describe('plain text', () => {
  test('has no character that acts, and every other one', () => {
    assert.equal(plainText(EVIL), 'a?[2J?]0;t??2J?b??  Logical volume vg/lv restored.??');
    assert.equal(plainLines('one\n\ttwo\r\u001b'), 'one\n\ttwo??');
    for (const text of ['vg0/data', 'Größe µ 日本 🙂 עברית العربية', '\'"\\`$()']) assert.equal(plainText(text), text);
    assert.equal(plainText('half \ud83d'), 'half ?');
  });

  test('in JSON keeps its value', () => {
    const value = { name: EVIL, list: ['🙂', EVIL] };
    assert.doesNotMatch(plainJson(value, 2), ACTS);
    assert.deepEqual(JSON.parse(plainJson(value, 2)), value);
    assert.deepEqual(JSON.parse(escapedJson(JSON.stringify(value))), value);
  });

  test('is what errors, tables and the log of the daemon show', () => {
    const fault = { code: 'BAD_FIELD', device: '/dev/sda', offset: 0, what: EVIL, actual: EVIL } as const;
    const [line = '', ...more] = textTable([{ heading: 'Client' }], [[`dn:${EVIL}`]]).slice(1);
    const record = {
      level: 'warn',
      time: new Date(0).toISOString(),
      msg: 'refused',
      export: EVIL,
      client: { dn: EVIL },
    };
    for (const text of [new FormatError(fault).message, line, readable(JSON.stringify(record), false)]) {
      assert.doesNotMatch(text, ACTS);
      assert.doesNotMatch(text, /\n/);
    }
    assert.deepEqual(more, []);
  });
});

test('the header of a foreign image', async () => {
  await withTemporaryFolder(async (folder) => {
    const header = { sizeBytes: 4096, createdAt: 0, generator: EVIL };
    const evil = { name: EVIL, id: EVIL };
    await writeFile(join(folder, 'full'), encodeHeader({ ...header, volume: evil, base: null }));
    await writeFile(join(folder, 'changes'), encodeHeader({ ...header, volume: evil, base: { name: EVIL, id: 'x' } }));
    for (const args of [
      ['--verify', 'full', 'changes'],
      ['full', 'changes', 'vg/lv'],
    ]) {
      const { status, stdout, stderr } = await command(folder, true, 'restore', ...args);
      assert.equal(status, 5);
      assert.equal(stdout, '');
      assert.match(stderr, /^ {2}\S+changes was taken since a\?\[2J.* \(x\), and \S+full is of a\?\[2J.*\.\n$/);
      assert.doesNotMatch(stderr, ACTS);
    }
  });
});

test('free text in the metadata of a device', async () => {
  await withTemporaryFolder(async (folder) => {
    const must = async (terminal: boolean, ...args: readonly string[]): Promise<string> => {
      const { status, stdout, stderr } = await command(folder, terminal, ...args);
      assert.equal(status, 0, `${args.join(' ')}: ${stderr}`);
      assert.doesNotMatch(stderr, ACTS);
      return stdout;
    };
    await writeFile(join(folder, 'pv0'), '');
    await truncate(join(folder, 'pv0'), 64 * 2 ** 20);
    await must(false, 'vgcreate', 'vg', join(folder, 'pv0'));
    await must(false, 'lvcreate', '-L8M', '-n', 'lv', 'vg');
    const file = join(folder, 'text');
    await must(false, 'vgcfgbackup', '-f', file, 'vg');
    const text = (await readFile(file, 'utf8'))
      .replace(/creation_host = "[^"]*"/g, `creation_host = "${EVIL}"`)
      .replace(/description = "[^"]*"/, `description = "${EVIL}"`);
    await writeFile(file, text);
    const listed = await must(true, 'vgcfgrestore', '--list', '-f', file);
    assert.match(listed, /^ {2}Description:\ta\?\[2J/m);
    assert.doesNotMatch(listed, /^ {2}Logical volume/m);
    await must(false, 'vgcfgrestore', '-f', file, 'vg');

    const fields = ['--noheadings', '-o', 'lv_name,lv_host'];
    const shown = await must(true, 'lvs', ...fields);
    assert.match(shown, /^ {2}lv +a\?\[2J.*\n$/);
    const display = await must(true, 'lvdisplay', 'vg/lv');
    assert.match(display, /LV Creation host, time a\?\[2J.*, /);
    for (const output of [listed, shown, display]) assert.doesNotMatch(output, ACTS);
    // What is parted by a character that the user wants is.
    assert.ok((await must(false, 'lvs', '--separator', '\u001f', ...fields)).startsWith('  lv\u001fa?'));

    // The value can be had, where no terminal is.
    const json = await must(false, 'lvs', '--reportformat', 'json_std', '-o', 'lv_name,lv_tags,lv_host');
    assert.doesNotMatch(json, ACTS);
    const dump = ['pvck', '--dump', 'metadata', join(folder, 'pv0')];
    assert.ok((await must(false, ...dump)).includes(`creation_host = "${EVIL}"`));
    assert.doesNotMatch(await must(true, ...dump), ACTS);
  });
});
