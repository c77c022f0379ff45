/**
 * audit: reads the audit log that the daemon writes.
 *
 *     orion-lvm audit verify [FILE]   finds records that were changed, removed, added or reordered; exit code 5 if there are some
 *     orion-lvm audit show [FILE]     the records, a line each
 *
 * FILE is by default the configuration's `audit.file`; rotated files (FILE.NUMBER) beside it belong to it.
 */
import { systemWords } from '../../lvm/system-error.ts';
import type { AuditRecord, ChainLink } from '../../observe/audit-record.ts';
import type { PlacedRecord, VerifyOptions } from '../../observe/audit-verify.ts';
import { plainText } from '../../ondisk/plain-text.ts';
import type { Command, CommandContext } from '../command.ts';
import { CommandError, EXIT, type ExitCode } from '../messages.ts';

async function run(context: CommandContext): Promise<ExitCode> {
  const [action, file = context.toml?.config.audit.file, ...rest] = context.args;
  if ((action !== 'verify' && action !== 'show') || rest.length > 0) {
    throw new CommandError(EXIT.badUsage, ['Please say what to do: audit verify [FILE] or audit show [FILE].']);
  }
  if (file === undefined) {
    throw new CommandError(EXIT.badUsage, ['Please name the file: the configuration has no audit.file.']);
  }
  const { resolve } = await import('node:path');
  const path = resolve(context.cwd, file);
  try {
    return await (action === 'verify' ? verify(path, context) : show(path, context));
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && 'syscall' in error)) throw error;
    throw new CommandError(EXIT.failed, [`${path}: ${systemWords(error)}.`]);
  }
}

async function verify(path: string, { options, output }: CommandContext): Promise<ExitCode> {
  const { verifyAudit } = await import('../../observe/audit-verify.ts');
  const from = options.value('from');
  const expected = headOf(options.value('head'));
  const wanted: VerifyOptions = {
    ...(from === undefined ? {} : { from: Number(from) }),
    ...(expected === null ? {} : { expected }),
  };
  const { files, records, last, problems, notes } = await verifyAudit(path, wanted);
  for (const { file, line, text } of problems)
    output.error(`${file}${line === 0 ? '' : `:${line}`}: ${plainText(text)}.`);
  for (const note of notes) output.print(`Note: ${note}.`);
  const where = files.length === 1 ? path : `${path} and ${files.length - 1} rotated files`;
  const end = last === null ? '' : `, the last one is ${last.seq}:${last.hash}`;
  output.print(`${records} records in ${where}${end}.`);
  if (problems.length === 0) output.print('Every record is what was written, in its place.');
  return problems.length === 0 ? EXIT.ok : EXIT.failed;
}

function headOf(text: string | undefined): ChainLink | null {
  const [, seq, hash] = /^(\d+):([0-9a-f]{64})$/.exec(text ?? '') ?? [];
  return seq === undefined || hash === undefined ? null : { seq: Number(seq), hash };
}

async function show(path: string, { options, output }: CommandContext): Promise<ExitCode> {
  const { readAudit } = await import('../../observe/audit-verify.ts');
  const from = Number(options.value('from') ?? 1);
  for (const { record } of await readAudit(path)) if (record.seq >= from) output.print(plainText(describe(record)));
  return EXIT.ok;
}

/** "7 2026-11-22T17:00:00.000Z root(0) lvcreate -n a vg0: ok, vg0 3 -> 4" */
function describe(record: PlacedRecord['record']): string {
  return `${record.seq} ${record.time} ${textOf(record)}`;
}

function textOf(record: AuditRecord): string {
  switch (record.event) {
    case 'command': {
      const { who, from, argv, exitCode, groups } = record;
      const result = exitCode === 0 ? 'ok' : `exit code ${exitCode}`;
      const changed = groups.map(({ name, seqnoBefore, seqnoAfter }) => {
        return `, ${name} ${seqnoBefore ?? 'new'} -> ${seqnoAfter ?? 'removed'}`;
      });
      return `${nameOf(who)} (${from}) ${argv.map(quoted).join(' ')}: ${result}${changed.join('')}`;
    }
    case 'refused': {
      const { who, from, what, reason } = record;
      return `${who === null ? '' : `${nameOf(who)} `}(${from}) refused ${what.map(quoted).join(' ')}: ${reason}`;
    }
    case 'metadata-changed': {
      const { name, expected, found } = record;
      return `metadata of ${name} written by somebody else: seqno ${expected.seqno} -> ${found.seqno}`;
    }
    case 'alert':
      return `alert ${record.state}: ${record.text}`;
    case 'truncated':
      return `a record of ${record.bytes} bytes or more was cut short by a crash`;
    case 'rotated':
      return `goes on after ${record.previous}`;
    case 'start':
    case 'stop':
      return `${record.text} (version ${record.version}, process ${record.pid})`;
    default:
      return 'a record of another version';
  }
}

function nameOf({ uid, pid, user }: { readonly uid: number; readonly pid?: number; readonly user?: string }): string {
  return `${user ?? 'user'}(${uid})${pid === undefined ? '' : `[${pid}]`}`;
}

function quoted(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : JSON.stringify(word);
}

export const command: Command = {
  summary: 'Verify or show the audit log',
  argumentsUsage: 'verify|show [ FILE ]',
  options: [
    {
      long: 'from',
      argument: 'Number',
      check: (value) => /^\d{1,15}$/.test(value) && Number(value) > 0,
      description: 'Begin with this record: those before may be gone, with the rotated files that held them.',
    },
    {
      long: 'head',
      argument: 'Number:Hash',
      check: (value) => headOf(value) !== null,
      description:
        'Number and hash of a record, as the daemon logged them when it started, stopped or rotated the file: it has to be there.',
    },
  ],
  run,
};
