// @ts-check

/** Returns the middle of the sorted values, the upper one of two; NaN of none. @param {readonly number[]} values */
export const median = values => values.toSorted((a, b) => a - b)[values.length >> 1] ?? Number.NaN
