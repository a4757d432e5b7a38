/**
 * Where inside the streams of servers something may be put in: between two WebSocket frames, between two events. Pure: no
 * I/O, no clock; a few numbers that follow the bytes.
 */

export { EventTracker, eventText } from './events.js'
export { closeFrame, type FramesRecord, FrameTracker } from './frames.js'
