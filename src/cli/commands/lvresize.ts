/** lvresize: see cli/lv/resize.ts. */
import type { Command } from '../command.ts';
import { resizeCommand } from '../lv/resize.ts';

export const command: Command = resizeCommand('any', 'Resize a logical volume');
