// Owns the list of figures, in the order in which they are measured.
// Called by main.ts; a new figure gets its line here.
import type { Figure } from '../figure';
import { cancel } from './cancel';
import { firstCommand } from './first-command';
import { gateway } from './gateway';
import { largeLog } from './large-log';
import { matrix } from './matrix';
import { throughput } from './throughput';
import { triggerAnswer } from './trigger-answer';

export const FIGURES: readonly Figure[] = [firstCommand, throughput, triggerAnswer, matrix, largeLog, cancel, gateway];
