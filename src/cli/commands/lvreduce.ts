/** lvreduce: see cli/lv/resize.ts. */
import type { Command } from '../command.ts';
import { resizeCommand } from '../lv/resize.ts';

export const command: Command = resizeCommand('reduce', 'Reduce the size of a logical volume');
