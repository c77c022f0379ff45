/**
 * The one place that judges what a client asks for: flags, permission, range and size of each command.
 *
 * Invariants
 *  - What passes here lies inside the volume, in bytes below 2^53; everything below asserts it.
 *  - A range is compared without adding to the offset, so that an offset near 2^64 can't wrap.
 *  - Past the end: ENOSPC for what would write data, EINVAL for the rest. Length 0 is nothing to do, and no error.
 */
import { CommandFlag, CommandType, MAX_PAYLOAD_BYTES, NbdErrno } from './constants.ts';
import type { Command } from './command.ts';
import type { NbdExport } from './exports.ts';
import { type Features, PLAIN } from './features.ts';

/** FUA is taken on every command, as it must be when offered; where there is nothing to make durable it means nothing. */
function allowedFlags(type: number, features: Features): number {
  if (type === CommandType.writeZeroes) return CommandFlag.fua | CommandFlag.noHole;
  if (type === CommandType.blockStatus && features.contexts.length > 0) return CommandFlag.fua | CommandFlag.reqOne;
  if (type === CommandType.read && features.structuredReplies) return CommandFlag.fua | CommandFlag.df;
  return CommandFlag.fua;
}

/** 0, or the error that the command is answered with. The payload of a refused WRITE still has to be read. */
export function judge(command: Command, export_: NbdExport, features: Features = PLAIN): NbdErrno {
  if ((command.flags & ~allowedFlags(command.type, features)) !== 0) return NbdErrno.einval;
  const { sizeBytes } = export_.volume.limits;
  const inside = command.length <= sizeBytes && command.offset <= sizeBytes - command.length;
  switch (command.type) {
    case CommandType.read:
      return inside && command.length <= MAX_PAYLOAD_BYTES ? NbdErrno.ok : NbdErrno.einval;
    case CommandType.write:
      if (export_.readOnly) return NbdErrno.eperm;
      if (command.length > MAX_PAYLOAD_BYTES) return NbdErrno.einval;
      return inside ? NbdErrno.ok : NbdErrno.enospc;
    case CommandType.writeZeroes:
      if (export_.readOnly) return NbdErrno.eperm;
      return inside ? NbdErrno.ok : NbdErrno.enospc;
    case CommandType.trim:
      if (export_.readOnly) return NbdErrno.eperm;
      return inside && export_.canTrim ? NbdErrno.ok : NbdErrno.einval;
    case CommandType.cache:
      return inside ? NbdErrno.ok : NbdErrno.einval;
    case CommandType.blockStatus:
      return inside && features.contexts.length > 0 && command.length > 0 ? NbdErrno.ok : NbdErrno.einval;
    case CommandType.flush:
      // Offset and length must be zero; a flush that has them is still a flush, and refusing it would endanger data.
      return NbdErrno.ok;
    default:
      return NbdErrno.einval;
  }
}

const NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries({
    READ: CommandType.read,
    WRITE: CommandType.write,
    FLUSH: CommandType.flush,
    TRIM: CommandType.trim,
    CACHE: CommandType.cache,
    WRITE_ZEROES: CommandType.writeZeroes,
    BLOCK_STATUS: CommandType.blockStatus,
  }).map(([name, type]) => [type, name]),
);

/** Why `judge` refused a command, for people. */
export function refusalText(command: Command, export_: NbdExport, features: Features): string {
  const { type, flags, offset, length } = command;
  const name = NAMES.get(type);
  if (name === undefined) return `command ${type} is not known to this server`;
  if (type === CommandType.blockStatus && features.contexts.length === 0)
    return `${name}: no meta context was selected for this export`;
  const unknown = flags & ~allowedFlags(type, features);
  if (unknown !== 0) return `${name}: flags 0x${unknown.toString(16)} are not known, or were not agreed on`;
  if (command.refusal === NbdErrno.eperm) return `${name}: the export is read-only`;
  if (type <= CommandType.write && length > MAX_PAYLOAD_BYTES) {
    return `${name}: ${length} bytes, at most ${MAX_PAYLOAD_BYTES} are allowed`;
  }
  if (type === CommandType.blockStatus && length === 0) return `${name} of no bytes`;
  const { sizeBytes } = export_.volume.limits;
  const inside = length <= sizeBytes && offset <= sizeBytes - length;
  return inside
    ? `${name} is not supported by this export`
    : `${name}: ${length} bytes at offset ${offset} are not inside the ${sizeBytes} bytes of the export`;
}
