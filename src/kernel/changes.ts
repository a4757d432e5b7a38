import { native } from './native.js'

/** Numbers that {@link scanChanges} tells of a change. */
export const CHANGE_FIELDS = 11

/** See {@link Native.scanChanges}. */
export const { scanChanges } = native
