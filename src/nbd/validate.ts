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

/** FUA is taken on every command, as it must be when offered; where there is nothing to make durable it means nothing. */
function unknownFlags(command: Command): boolean {
  const allowed = command.type === CommandType.writeZeroes ? CommandFlag.fua | CommandFlag.noHole : CommandFlag.fua;
  return (command.flags & ~allowed) !== 0;
}

/** 0, or the error that the command is answered with. The payload of a refused WRITE still has to be read. */
export function judge(command: Command, export_: NbdExport): NbdErrno {
  if (unknownFlags(command)) return NbdErrno.einval;
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
    case CommandType.flush:
      // Offset and length must be zero; a flush that has them is still a flush, and refusing it would endanger data.
      return NbdErrno.ok;
    default:
      return NbdErrno.einval;
  }
}
