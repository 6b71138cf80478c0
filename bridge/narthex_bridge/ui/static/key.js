// The key of this tab: gone when the tab is.

const NAME = "narthex.key";

export const key = {
  get given() {
    return sessionStorage.getItem(NAME) !== null;
  },
  get headers() {
    const value = sessionStorage.getItem(NAME);
    return value === null ? {} : { authorization: `Bearer ${value}` };
  },
  keep(value) {
    sessionStorage.setItem(NAME, value);
  },
  forget() {
    sessionStorage.removeItem(NAME);
  },
};
