import { native } from './native.js'

/** See {@link Native.addSums}. */
export const { addSums } = native
