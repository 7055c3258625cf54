package render

import (
	"strings"
	"unicode"
)

// toTitle makes the first letter of each word a capital and leaves the others.
// Words end as in UAX #29, simplified: an apostrophe or a full stop between
// letters ends none.
func toTitle(s string) string {
	var b strings.Builder
	inWord, wasJoint := false, false
	for _, r := range s {
		joint := strings.ContainsRune(joints, r)
		if joint && wasJoint {
			inWord = false
		}
		switch {
		case isCased(r) && !inWord:
			b.WriteString(capital(r))
			inWord = true
		default:
			b.WriteRune(r)
			inWord = inWord && (isCased(r) || joint || continues(r))
		}
		wasJoint = joint
	}
	return b.String()
}

// joints end a word only where two of them stand together: Unicode's MidLetter
// and MidNumLet.
const joints = "'.:\u00b7\u0387\u055f\u05f4\u2018\u2019\u2024\u2027\ufe13\ufe52\ufe55\uff07\uff0e\uff1a"

// isCased reports whether a rune has Unicode's property Cased.
func isCased(r rune) bool {
	return unicode.In(r, unicode.Lu, unicode.Ll, unicode.Lt, unicode.Other_Lowercase, unicode.Other_Uppercase)
}

// continues reports whether an uncased rune goes on with a word. Scripts that
// write words without spaces have a boundary at each of their letters.
func continues(r rune) bool {
	switch {
	case unicode.In(r, unicode.Han, unicode.Hiragana, unicode.Thai, unicode.Lao, unicode.Khmer, unicode.Myanmar):
		return unicode.IsMark(r) || unicode.IsDigit(r)
	case r >= 0x2c2 && r <= 0x2ff: // modifiers of letters
		return true
	}
	return unicode.IsLetter(r) || unicode.In(r, unicode.M, unicode.Nd, unicode.Pc, unicode.Cf)
}

// capital is the title case of a rune, which may be more than one.
func capital(r rune) string {
	if r > 'z' {
		for pair := range strings.FieldsSeq(longCapitals) {
			if whole, ok := strings.CutPrefix(pair, string(r)); ok {
				return whole
			}
		}
	}
	return string(unicode.ToTitle(r))
}

// longCapitals are the letters whose title case is more than one rune, each in
// front of it (Unicode's SpecialCasing.txt).
const longCapitals = "ßSs ŉʼN ǰJ\u030c ΐΪ\u0301 ΰΫ\u0301 \u1fd3Ϊ\u0301 \u1fe3Ϋ\u0301 ևԵւ ẖH\u0331 ẗT\u0308 ẘW\u030a ẙY\u030a ẚAʾ ὐΥ\u0313 ὒΥ\u0313\u0300 ὔΥ\u0313\u0301 ὖΥ\u0313\u0342 " +
	"ᾲ\u1fba\u0345 ᾴ\u0386\u0345 ᾶΑ\u0342 ᾷᾼ\u0342 ῂ\u1fca\u0345 ῄ\u0389\u0345 ῆΗ\u0342 ῇῌ\u0342 ῒΪ\u0300 ῖΙ\u0342 ῗΪ\u0342 ῢΫ\u0300 ῤΡ\u0313 ῦΥ\u0342 ῧΫ\u0342 " +
	"ῲ\u1ffa\u0345 ῴ\u038f\u0345 ῶΩ\u0342 ῷῼ\u0342 ﬀFf ﬁFi ﬂFl ﬃFfi ﬄFfl ﬅSt ﬆSt ﬓՄն ﬔՄե ﬕՄի ﬖՎն ﬗՄխ"
