/** vgrename: gives a volume group, told by name or uuid, another name. */
import { existsSync } from 'node:fs';
import type { ChangeContext } from '../../lvm/change-context.ts';
import { withChanges } from '../../lvm/command.ts';
import { CommandError as Refusal } from '../../lvm/edit/errors.ts';
import { renameVgPlan } from '../../lvm/edit/vg-change.ts';
import { nameProblem } from '../../lvm/edit/vg-names.ts';
import { formatUuid, parseUuid } from '../../ondisk/uuid.ts';
import { changeContext } from '../change.ts';
import type { Command, CommandContext } from '../command.ts';
import { CommandError, EXIT, type ExitCode, noSuchSyntax } from '../messages.ts';
import { withoutDevDirectory } from '../names.ts';
import { AUTOBACKUP_OPTION, FORCE_OPTION, REPORTFORMAT_OPTION } from '../option-values.ts';

export const command: Command = {
  summary: 'Rename a volume group',
  argumentsUsage: 'VG|UUID VG_new',
  options: [FORCE_OPTION, AUTOBACKUP_OPTION, REPORTFORMAT_OPTION],
  run: vgrename,
};

/** The longest path of a VG's directory that LVM2 makes. */
const MAX_PATH = 128;

async function vgrename(context: CommandContext): Promise<ExitCode> {
  const [first, second, ...more] = context.args;
  if (first === undefined || second === undefined || more.length > 0) throw noSuchSyntax(context.name);
  const old = withoutDevDirectory(first);
  const name = withoutDevDirectory(second);
  checkNewName(context, old, name);
  const change = await changeContext(context);
  const id = uuidOf(old);
  const named = id === null ? { vgName: old } : { vgName: await nameOf(change, id, old), vgId: id };
  const known = { ...named, allowExported: true };
  if (known.vgName === name) throw new CommandError(EXIT.failed, ['New VG name must differ from the old VG name.']);
  const vgs = [known.vgName, name].map((vgName) => ({ name: vgName, mode: 'write' as const }));
  return withChanges(change, { globalLock: 'write', vgs }, async (changes) => {
    const group = await changes.volumeGroup(known);
    const { volumeGroups, unreadable } = changes.scan;
    if (volumeGroups.some(({ vg }) => vg.name === name) || unreadable.some((other) => other.name === name)) {
      throw new Refusal(`New VG name "${name}" already exists`);
    }
    const namesake = volumeGroups.find(({ vg }) => vg.id === uuidOf(name));
    if (namesake !== undefined) {
      throw new Refusal(`New VG name "${name}" matches the UUID of existing VG ${namesake.vg.name}`);
    }
    await changes.apply(renameVgPlan(group, name, old));
    return EXIT.ok;
  });
}

/** Display form, if the text can be a uuid. */
function uuidOf(text: string): string | null {
  const raw = parseUuid(text);
  return raw === null || raw.length !== 32 ? null : formatUuid(raw);
}

/** The name of the VG with an id, so that both names can be locked in order. */
function nameOf(change: ChangeContext, id: string, asTyped: string): Promise<string> {
  return withChanges(change, { globalLock: 'read' }, ({ scan }) => {
    const found = scan.volumeGroups.find(({ vg }) => vg.id === id);
    if (found !== undefined) return Promise.resolve(found.vg.name);
    throw new Refusal([`Volume group "${asTyped}" not found`, `Cannot process volume group ${asTyped}`]);
  });
}

function checkNewName({ env }: CommandContext, old: string, name: string): void {
  const directory = `${(env['DM_DEV_DIR'] ?? '/dev').replace(/\/+$/, '')}/`;
  const longest = MAX_PATH - directory.length - 2;
  if (name.length > longest) refuse(`New volume group path exceeds maximum length of ${longest}!`);
  const problem = nameProblem(name);
  if (problem !== null) refuse(problem, `New volume group name "${name}" is invalid.`);
  if (existsSync(directory + name)) refuse(`${directory}${name}: already exists in filesystem`);
  if (old === name) refuse('Old and new volume group names must differ');
}

function refuse(...lines: readonly string[]): never {
  throw new CommandError(EXIT.failed, lines);
}
